import { readdirSync } from 'node:fs';
import type { ProcessEvidence } from '../../domain/evidence.ts';
import { readText } from '../storage/read-text.ts';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, isAlive, readStat } from './identity.ts';
import { askForStacks } from './stacks.ts';

const threadsMax = 64;

/** `stacksPath`: where the worker writes its stacks; null: it said that it does not. */
export async function gatherEvidence(identity: ProcessIdentity, stacksPath: string | null): Promise<ProcessEvidence> {
  if (!hasProc || !isAlive(identity)) {
    return { state: '', threads: [], stacks: '', stacksMissing: 'its process cannot be looked at' };
  }
  const state = readStat(identity.pid)?.state ?? '';
  const threads = readThreads(identity.pid);
  const { stacks, why } = await askForStacks(identity, stacksPath);
  return { state, threads, stacks, stacksMissing: why };
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
