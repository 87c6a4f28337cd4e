import { readdirSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { ProcessEvidence } from '../domain/evidence.ts';
import { stacksMaxBytes } from '../domain/text-bounds.ts';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, isAlive, readStat } from './identity.ts';
import { readStart, readText } from './read-text.ts';
import { signalProcess } from './signal.ts';

/**
 * The real-time signal on which a worker writes its stacks, Linux's SIGRTMIN + 10, which nobody else is known to use. The
 * handler is faulthandler's, in C: it needs no GIL.
 */
export const stacksSignal = 44;
/** A process that is not let run for so long does not get to write anything. */
const stacksTimeoutMs = 300;
const lookEveryMs = 10;
const threadsMax = 64;

/** `stacksPath`: where the worker said that it writes; null: it does not. */
export async function gatherEvidence(identity: ProcessIdentity, stacksPath: string | null): Promise<ProcessEvidence> {
  if (!hasProc || !isAlive(identity)) {
    return { state: '', threads: [], stacks: '', stacksMissing: 'its process cannot be looked at' };
  }
  const state = readStat(identity.pid)?.state ?? '';
  const threads = readThreads(identity.pid);
  const { stacks, why } = await askForStacks(identity, stacksPath, state);
  return { state, threads, stacks, stacksMissing: why };
}

async function askForStacks(
  identity: ProcessIdentity,
  path: string | null,
  state: string,
): Promise<{ stacks: string; why: string }> {
  if (path === null) return { stacks: '', why: 'it does not write them' };
  if (state === 'T' || state === 't') return { stacks: '', why: 'it is stopped (state T)' };
  if (!signalProcess(identity, stacksSignal)) return { stacks: '', why: 'it has exited' };
  const endsAtMs = performance.now() + stacksTimeoutMs;
  let text = '';
  while (performance.now() < endsAtMs) {
    await delay(lookEveryMs);
    const next = readStart(path, stacksMaxBytes);
    // Twice the same: all is written.
    if (next !== '' && next === text) break;
    text = next;
  }
  return { stacks: text, why: text === '' ? `nothing came within ${stacksTimeoutMs} ms` : '' };
}

function readThreads(pid: number): string[] {
  try {
    const tids = readdirSync(`/proc/${pid}/task`).slice(0, threadsMax);
    return tids.map((tid) => {
      const at = `/proc/${pid}/task/${tid}`;
      const state = /^State:\s+(\S)/m.exec(readText(`${at}/status`))?.[1] ?? '?';
      return `${tid} ${readText(`${at}/comm`).trim()} ${state} ${readText(`${at}/wchan`).trim() || '0'}`;
    });
  } catch {
    return [];
  }
}
