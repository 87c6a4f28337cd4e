import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import type { Intent } from '../../domain/state.ts';
import { explainIssue, moveAside, readSealed } from './read-sealed.ts';
import { writeSealed } from './sealed-file.ts';

/** The intent of the control plane for this node, `STATE_DIR/intent.json`. It is stored before it is acted on. */

const kind = 'pitwarden-intent';
const version = 1;
const versions: readonly number[] = [1];
/** As config/schema.ts bounds sizes, and control.proto the rest. */
const schema = z.object({
  cluster_uid: z.string().min(1).max(128),
  epoch: z.int().min(1),
  generation: z.int().min(1),
  controller: z.string().max(4_096),
  released: z.boolean(),
  drained: z.boolean(),
  pools: z.array(z.object({ pool: z.string().max(63), size: z.int().min(0).max(1_000), drained: z.boolean() })),
});

export interface IntentSnapshot {
  readonly intent: Intent | null;
  /** Why the file could not be used; it was moved away. Empty: it could, or there is none. */
  readonly problem: string;
}

export interface IntentFile {
  /** Never throws because of what is in the file; throws if the host lacks a resource to read it. */
  read(): IntentSnapshot;
  /**
   * Resolves when the intent is on disk. Rejects if that fails or takes longer than 5 s; a write that has started may still succeed.
   * Writes are made one after another: while one hangs, further ones are rejected at once.
   */
  store(intent: Intent): Promise<void>;
}

const writeTimeoutMs = 5_000;

export function openIntentFile(stateDirectory: string, timeoutMs = writeTimeoutMs): IntentFile {
  const path = join(stateDirectory, 'intent.json');
  let isWriting = false;
  return {
    read: () => {
      if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return { intent: null, problem: '' };
      const found = readIntent(path);
      if (typeof found !== 'string') return { intent: found, problem: '' };
      moveAside(path, join(stateDirectory, 'ledger-set-aside'), 'intent.json');
      return { intent: null, problem: `${path}: ${found}` };
    },
    store: async (intent) => {
      if (isWriting) throw new Error('an earlier write still waits for the disk');
      isWriting = true;
      const writing = writeSealed(path, kind, version, toFile(intent)).finally(() => {
        isWriting = false;
      });
      await within(timeoutMs, writing);
    },
  };
}

async function within(timeoutMs: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`expected the write to finish within ${timeoutMs / 1000} s`)), timeoutMs);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
    // After the timeout its outcome does not matter.
    work.catch(() => undefined);
  }
}

function readIntent(path: string): Intent | string {
  const value = readSealed(path, kind, versions);
  if (typeof value === 'string') return value;
  const parsed = schema.safeParse(value);
  if (!parsed.success) return explainIssue(parsed.error);
  const { cluster_uid: clusterUid, ...rest } = parsed.data;
  return { clusterUid, ...rest };
}

function toFile({ clusterUid, ...rest }: Intent): z.output<typeof schema> {
  return { cluster_uid: clusterUid, ...rest, pools: [...rest.pools] };
}
