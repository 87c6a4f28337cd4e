import type { Verdict } from './policies/policy.ts';

/** The earliest of several times, but not before now. */
export class Wake {
  atMs = Number.POSITIVE_INFINITY;
  readonly nowMs: number;
  constructor(nowMs: number) {
    this.nowMs = nowMs;
  }
  at(ms: number): void {
    if (ms < this.atMs) this.atMs = Math.max(ms, this.nowMs);
  }
  verdict(verdict: Verdict): void {
    if ('atMs' in verdict) this.at(verdict.atMs);
  }
}
