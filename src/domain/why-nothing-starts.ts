import type { NodeStatus, Pool, Worker } from './state.ts';

/** After this many consecutive failed starts, callers of a pool without a ready worker are refused. */
const failedStartsMax = 2;
/** Callers wait for a pool whose next start is at most this far away. */
const worthWaitingMs = 2_000;

/**
 * Why a pool cannot serve requests for some time; null if it can, or may be able to soon. It is better to refuse a
 * caller at once, with the cause, than to keep it waiting until its deadline. `untilMs`: when to check again at the
 * latest.
 */
export function whyNothingStarts(
  node: NodeStatus,
  pool: Pool,
  workers: readonly Worker[],
  nowMs: number,
): { readonly why: string; readonly untilMs: number } | null {
  if (workers.some(({ phase }) => phase === 'ready')) return null;
  const never = Number.POSITIVE_INFINITY;
  // A killed start counts at its kill; its output arrives with its exit, soon after.
  if (pool.failedStarts >= failedStartsMax && pool.lastFailure !== null) {
    return { why: `has no ready worker: its starts fail: ${cause(pool.lastFailure.message)}`, untilMs: never };
  }
  if (workers.some(({ phase }) => phase === 'starting')) return null;
  if (node.blockedStarts.because !== '') {
    return { why: `has no ready worker, and none can be started: ${node.blockedStarts.because}`, untilMs: never };
  }
  const nextStartAtMs = Math.min(...[...pool.slots.values()].map((slot) => slot.nextStartAtMs));
  if (pool.lastFailure === null || nextStartAtMs <= nowMs + worthWaitingMs) return null;
  const why = `has no ready worker, and waits before it starts the next (restart.backoff): ${cause(pool.lastFailure.message)}`;
  return { why, untilMs: nextStartAtMs - worthWaitingMs };
}

/** In the message of a worker's end: separates how it ended from its last output. */
export const lastLinesHeading = '; its last lines:\n';
const frame = /^\s*File "(?<file>[^"]+)", line (?<line>\d+)/;
/** The last line of a Python traceback, or a line that the SDK prints. */
const sentence = /^(?:[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Iteration|Warning|Group)\b.*|pitwarden: .*)$/;
/** Frames of the code that imports the application also appear in the traceback. */
const notApplicationCode = /[/\\](?:pitwarden|importlib)[/\\]|^<frozen /;

/** How a worker ended, without its last lines. */
export function withoutLastLines(message: string): string {
  const at = message.indexOf(lastLinesHeading);
  return at < 0 ? message : message.slice(0, at);
}

/**
 * A short form of a failure's message: how the worker ended, and the sentence of its output that says why, with file
 * and line.
 */
export function cause(message: string): string {
  const at = message.indexOf(lastLinesHeading);
  if (at < 0) return message;
  const how = message.slice(0, at);
  const lines = message.slice(at + lastLinesHeading.length).split('\n');
  const lastSentence =
    lines.findLast((line) => sentence.test(line)) ?? lines.findLast((line) => line.trim() !== '') ?? '';
  const where = lines
    .map((line) => frame.exec(line)?.groups)
    .findLast((groups) => groups !== undefined && !notApplicationCode.test(groups['file'] ?? ''));
  const place = where === undefined ? '' : ` (${where['file']}, line ${where['line']})`;
  return `${how}: ${lastSentence.trim()}${place}`;
}
