/**
 * The bounds of all texts that callers, views, events, logs and metrics show. Texts of workers are cut when they arrive
 * (`grpc/worker-link/sanitize.ts`), texts of views once more when the view is made (`grpc/control/view-bounds.ts`). "Bytes" are bytes of
 * UTF-8, "length" is UTF-16 code units.
 */

/** Any text of an answer of Control. What has a bound of its own below stays under this one. */
export const viewTextMaxBytes = 16 * 1024;

/** A worker's commands: more of them, or longer names, are refused. */
export const commandsMax = 1_000;
export const commandNameMaxBytes = 200;
/** The first line of a command's docstring. */
export const commandSummaryMaxLength = 200;
/** The caller's names for a request and a session. */
export const requestIdMaxBytes = 128;
/** The versions that a worker names. */
export const versionMaxLength = 64;

/** A failure that a worker reports. */
export const errorTypeMaxBytes = 256;
export const errorMessageMaxBytes = 16 * 1024;
export const tracebackMaxBytes = 16 * 1024;

/** What a command says of its progress, and an application of why it asks to be replaced. */
export const progressMessageMaxLength = 200;
export const leavingReasonMaxLength = 1_024;

/** The last lines that a worker wrote: in the message of its end, and in the evidence of one that hung or crashed. */
export const lastLinesMaxLength = 4 * 1024;
export const evidenceLinesMaxLength = 8 * 1024;
/** Python stacks of a worker that hung or crashed. */
export const stacksMaxBytes = 16 * 1024;
