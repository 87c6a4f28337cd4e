import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isForbiddenError, isGoneError } from './proc-error.ts';

/**
 * What leads from a daemon to its worker when it has a session, a parent and an environment of its own: RLIMIT_RTTIME, which the
 * SDK sets to a number made from the worker's id (_tree_mark.py). It is inherited at each fork and kept at each exec; a hard limit
 * can be raised only with privileges. Numbers of this size limit nothing: the unit is a microsecond.
 */
const base = 2n ** 62n;
const hashDigits = 14;

/** By worker id; workers come and go, so it is emptied when it has grown. */
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

/** The mark that a process carries; empty: none, or it is not ours to see, or it is gone. */
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
