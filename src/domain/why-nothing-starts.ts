import type { NodeStatus, Pool, Worker } from './state.ts';

/** After so many failed starts in a row, callers of a pool without a ready worker are told. */
const failedStartsMax = 2;
/** A caller may as well wait for a pool whose next start is no further away. */
const worthWaitingMs = 2_000;

/**
 * Why nobody can serve a pool's requests for some time; null: somebody does, or may soon. A caller is better told at once,
 * with the cause, than kept waiting until its deadline. `untilMs`: when to look again at the latest.
 */
export function whyNothingStarts(
  node: NodeStatus,
  pool: Pool,
  workers: readonly Worker[],
  nowMs: number,
): { readonly why: string; readonly untilMs: number } | null {
  if (workers.some(({ phase }) => phase === 'ready')) return null;
  const never = Number.POSITIVE_INFINITY;
  // A start that is killed counts at its kill; what it left to say how comes with its exit, soon after.
  if (pool.failedStarts >= failedStartsMax && pool.lastFailure !== null) {
    return { why: `has no ready worker: its starts fail: ${cause(pool.lastFailure.message)}`, untilMs: never };
  }
  if (workers.some(({ phase }) => phase === 'starting')) return null;
  if (node.ledger.error !== '') {
    return { why: `has no ready worker, and none can be started: ${node.ledger.error}`, untilMs: never };
  }
  const nextStartAtMs = Math.min(...[...pool.slots.values()].map((slot) => slot.nextStartAtMs));
  if (pool.lastFailure === null || nextStartAtMs <= nowMs + worthWaitingMs) return null;
  const why = `has no ready worker, and waits before it starts the next (restart.backoff): ${cause(pool.lastFailure.message)}`;
  return { why, untilMs: nextStartAtMs - worthWaitingMs };
}

/** In the message of a worker's end, between how it ended and what it wrote last. */
export const saidAfter = '; its last lines:\n';
const frame = /^\s*File "(?<file>[^"]+)", line (?<line>\d+)/;
/** An exception as Python prints it last, or a line of the SDK's own. */
const sentence = /^(?:[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Iteration|Warning|Group)\b.*|pitwarden: .*)$/;
/** Whoever imports an application stands in the traceback too. */
const notTheirs = /[/\\](?:pitwarden|importlib)[/\\]|^<frozen /;

/** How a worker ended, without what it wrote last. */
export function withoutLastLines(message: string): string {
  const at = message.indexOf(saidAfter);
  return at < 0 ? message : message.slice(0, at);
}

/** Of a failure's message: how it ended, and the sentence that says why with its file and line, where it wrote one. */
export function cause(message: string): string {
  const at = message.indexOf(saidAfter);
  if (at < 0) return message;
  const how = message.slice(0, at);
  const lines = message.slice(at + saidAfter.length).split('\n');
  const said = lines.findLast((line) => sentence.test(line)) ?? lines.findLast((line) => line.trim() !== '') ?? '';
  const where = lines
    .map((line) => frame.exec(line)?.groups)
    .findLast((groups) => groups !== undefined && !notTheirs.test(groups['file'] ?? ''));
  const place = where === undefined ? '' : ` (${where['file']}, line ${where['line']})`;
  return `${how}: ${said.trim()}${place}`;
}
