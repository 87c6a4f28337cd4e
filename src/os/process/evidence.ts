import { readdirSync } from 'node:fs';
import type { ProcessEvidence } from '../../domain/evidence.ts';
import { readText } from '../storage/read-text.ts';
import type { ProcessIdentity } from './identity.ts';
import { hasProc, isAlive, readStat } from './identity.ts';
import { askForStacks } from './stacks.ts';

const threadsMax = 64;

/** `stacksPath`: the file to which the worker writes its stacks; null if the worker said that it writes none. */
export async function gatherEvidence(identity: ProcessIdentity, stacksPath: string | null): Promise<ProcessEvidence> {
  if (!hasProc || !isAlive(identity)) {
    return { state: '', threads: [], stacks: '', stacksMissing: 'its process cannot be inspected' };
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
