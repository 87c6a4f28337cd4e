/**
 * Limits of all texts that callers, views, events, logs and metrics show. Texts from workers are cut when they arrive
 * (`grpc/worker-link/sanitize.ts`), texts in views once more when the view is made (`grpc/control/view-bounds.ts`).
 * "Bytes" are UTF-8 bytes, "length" is UTF-16 code units.
 */

/** Limit of any text in an answer of Control. The specific limits below are smaller. */
export const viewTextMaxBytes = 16 * 1024;

/** Limits of a worker's commands: with more commands or longer names it is refused. */
export const commandsMax = 1_000;
export const commandNameMaxBytes = 200;
/** The first line of a command's docstring. */
export const commandSummaryMaxLength = 200;
/** The ids that callers give to requests and sessions. */
export const requestIdMaxBytes = 128;
/** The versions that a worker reports. */
export const versionMaxLength = 64;

/** A failure that a worker reports. */
export const errorTypeMaxBytes = 256;
export const errorMessageMaxBytes = 16 * 1024;
export const tracebackMaxBytes = 16 * 1024;

/** A command's progress message, and an application's reason for a replacement. */
export const progressMessageMaxLength = 200;
export const leavingReasonMaxLength = 1_024;

/** The last lines of a worker's output: in the message of its end, and in the evidence of one that hung or crashed. */
export const lastLinesMaxLength = 4 * 1024;
export const evidenceLinesMaxLength = 8 * 1024;
/** Python stacks of a worker that hung or crashed. */
export const stacksMaxBytes = 16 * 1024;
