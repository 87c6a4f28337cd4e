/**
 * Why a call failed, in one word for programs: `reason` of execution.proto's Error, which says what each means, and of
 * google.rpc.ErrorInfo in the details of each status.
 */
export const errorReasons = [
  'INVALID_REQUEST',
  'REQUEST_TOO_LARGE',
  'ANSWER_TOO_LARGE',
  'NOT_ALLOWED',
  'POOL_NOT_FOUND',
  'COMMAND_NOT_FOUND',
  'WORKER_NOT_FOUND',
  'ROLL_NOT_FOUND',
  'SERVICE_NOT_FOUND',
  'POOL_CLOSED',
  'POOL_DRAINING',
  'POOL_REMOVED',
  'NODE_DRAINING',
  'AGENT_STOPPING',
  'QUEUE_FULL',
  'DEADLINE_TOO_SHORT',
  'DEADLINE_EXCEEDED',
  'MEMORY_FULL',
  'READS_TOO_SLOWLY',
  'CANCELLED',
  'REPEATED',
  'WORKER_ENDED',
  'LINK_BROKEN',
  'REQUEST_POISONED',
  'ANSWER_LOST',
  'COMMAND_FAILED',
  'ROLL_STATE',
  'WRONG_AGENT',
  'REVISION_CHANGED',
  'CONFIG_INVALID',
  'NODE_MANAGED',
  'INTENT_OUTDATED',
  'INTENT_NOT_STORED',
  'NOT_FOUND',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'INTERNAL',
  'UNAVAILABLE',
  'UNKNOWN',
] as const;
export type ErrorReason = (typeof errorReasons)[number];

const byCode: Readonly<Record<number, ErrorReason>> = {
  1: 'CANCELLED',
  3: 'INVALID_REQUEST',
  4: 'DEADLINE_EXCEEDED',
  5: 'NOT_FOUND',
  7: 'NOT_ALLOWED',
  8: 'RESOURCE_EXHAUSTED',
  9: 'FAILED_PRECONDITION',
  10: 'ABORTED',
  11: 'OUT_OF_RANGE',
  13: 'INTERNAL',
  14: 'UNAVAILABLE',
  15: 'ANSWER_LOST',
};

/** The reason of an error that has no word of its own, by its gRPC status code. */
export function reasonOfCode(code: number): ErrorReason {
  return byCode[code] ?? 'UNKNOWN';
}
