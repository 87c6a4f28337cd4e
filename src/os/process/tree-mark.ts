import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isForbiddenError, isGoneError } from './proc-error.ts';

/**
 * Links a daemon to its worker even if it has its own session, parent and environment: RLIMIT_RTTIME, which the SDK
 * sets to a number derived from the worker's id (_tree_mark.py). The limit survives every fork and exec, and a hard
 * limit can only be raised with privileges. Values of this size limit nothing, as the unit is a microsecond.
 */
const base = 2n ** 62n;
const hashDigits = 14;

/** Marks by worker id. Workers come and go, so the cache is cleared when it is full. */
const known = new Map<string, string>();
const knownMax = 10_000;

export function markOf(workerId: string): string {
  const cached = known.get(workerId);
  if (cached !== undefined) return cached;
  const hash = createHash('sha256').update(workerId).digest('hex').slice(0, hashDigits);
  const mark = String(base + BigInt(`0x${hash}`));
  if (known.size >= knownMax) known.clear();
  known.set(workerId, mark);
  return mark;
}

/** The mark of a process; empty if it has none, we may not read it, or it is gone. */
export function readMark(pid: number): string {
  try {
    const text = readFileSync(`/proc/${pid}/limits`, 'latin1');
    const hard = /^Max realtime timeout\s+\d+\s+(\d+)/m.exec(text)?.[1] ?? '';
    return hard.length === String(base).length && BigInt(hard) >= base ? hard : '';
  } catch (error) {
    if (isForbiddenError(error) || isGoneError(error)) return '';
    throw error;
  }
}
