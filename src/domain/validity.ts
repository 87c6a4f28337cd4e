/** When a certificate or a revocation list is valid, in unix ms. */
export interface Validity {
  readonly fromMs: number;
  /** Infinite: it does not expire. */
  readonly untilMs: number;
}

export type ValidityState = 'valid' | 'early' | 'expiring' | 'expired';

/** From this long before its end on, something is said to expire soon. */
const warnMs = 14 * 86_400_000;
/** Certificates that live for hours or days are renewed late in their lives. So something expires soon in the last fifth of its life at most. */
const warnShare = 0.2;

/** The state at a time of the wall clock, which may jump. */
export function validityAt({ fromMs, untilMs }: Validity, nowMs: number): ValidityState {
  if (nowMs < fromMs) return 'early';
  if (nowMs >= untilMs) return 'expired';
  const soonMs = Math.min(warnMs, (untilMs - fromMs) * warnShare);
  return untilMs - nowMs < soonMs ? 'expiring' : 'valid';
}

/** Whether it can be used now. */
export function isUsable(validity: Validity, nowMs: number): boolean {
  const state = validityAt(validity, nowMs);
  return state === 'valid' || state === 'expiring';
}
