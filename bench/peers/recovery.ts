import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import type { Measured } from '../statistics.ts';

const tryMs = 1_000;
const giveUpMs = 30_000;
/** Between the last answer and the kill. */
const idleMs = 1_000;

/** Asks the one worker for its pid; undefined: no good answer in time. */
export type AskPid = (withinMs: number) => Promise<number | undefined>;

/**
 * Kills the worker that answers and measures until the next good answer; `none` when there is none in time. Only what a
 * worker says of itself counts: the process to kill is the one that answered before, and a measurement counts only if that
 * process has gone and another one gives the next answer.
 */
export async function recovery(ask: AskPid): Promise<Measured> {
  const killed = await ask(10_000);
  if (killed === undefined) throw new Error('no answer before the kill');
  await pause(idleMs);
  process.kill(killed, 'SIGKILL');
  const killedAtMs = performance.now();
  while (performance.now() - killedAtMs < giveUpMs) {
    const answered = await ask(tryMs);
    const ms = performance.now() - killedAtMs;
    if (answered === killed) throw new Error(`process ${killed} answered after it was killed`);
    if (answered !== undefined && isAlive(killed)) throw new Error(`process ${killed} lives on after it was killed`);
    if (answered !== undefined) return { ms };
    await pause(1);
  }
  return { none: 1 };
}

/** One that has ended and was not waited for is no longer alive. */
function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch {
    return false;
  }
}

/** A pid as a worker writes it. */
export function pidIn(answer: Buffer): number | undefined {
  const text = answer.toString();
  return /^[1-9]\d{0,9}$/.test(text) ? Number(text) : undefined;
}
