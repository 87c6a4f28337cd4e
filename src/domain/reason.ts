/**
 * Why a worker ends. Log lines, events, metric labels and RPC answers use the same word. Worker.reason in
 * proto/pitwarden/v1/control.proto explains each.
 */
export const reasons = [
  'exit_code',
  'signal',
  'exit_unknown',
  'start_timeout',
  'start_failed',
  'hung',
  'overdue',
  'link_lost',
  'memory',
  'memory_hard',
  'ttl',
  'request_budget',
  'idle',
  'retired',
  'roll',
  'config',
  'operator',
  'scale_down',
  'shutdown',
] as const;

export type Reason = (typeof reasons)[number];

/** Unplanned ends: they count towards a slot's back-off. */
export const unplannedReasons: ReadonlySet<Reason> = new Set([
  'exit_code',
  'signal',
  'exit_unknown',
  'start_timeout',
  'start_failed',
  'hung',
  'overdue',
  'link_lost',
  'memory_hard',
]);

/** Reasons for a planned replacement, most pressing first. */
export const recycleReasons: readonly Reason[] = [
  'memory',
  'operator',
  'config',
  'roll',
  'request_budget',
  'ttl',
  'idle',
];

/** Reasons of the event `worker_due`, which a metric counts; a worker that leaves by itself is replaced as well. */
export const dueReasons: readonly Reason[] = [...recycleReasons, 'retired'];

/** Lower is more pressing. */
export function rank(reason: Reason): number {
  return recycleReasons.indexOf(reason);
}
