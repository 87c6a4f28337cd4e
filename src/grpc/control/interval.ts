import { status } from '@grpc/grpc-js';
import { Refusal } from './refusals.ts';
import type { ControlRequest } from './source.ts';

export interface IntervalBounds {
  /** For 0, and if the field is absent. */
  readonly defaultMs: number;
  readonly leastMs: number;
  readonly mostMs: number;
}

/** A request's field with an interval in milliseconds. */
export function intervalOf(
  request: ControlRequest,
  key: string,
  { defaultMs, leastMs, mostMs }: IntervalBounds,
): number {
  const intervalMs = Number(request[key] ?? 0) || defaultMs;
  if (intervalMs >= leastMs && intervalMs <= mostMs) return intervalMs;
  const expected = `expected ${leastMs} to ${mostMs}, or 0 for ${defaultMs}`;
  throw new Refusal(status.INVALID_ARGUMENT, `${key}: ${expected}, got ${intervalMs}`);
}
