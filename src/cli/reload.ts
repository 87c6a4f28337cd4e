import { setTimeout as delay } from 'node:timers/promises';
import type { Config, Loaded } from '../config/load.ts';
import { formatProblems } from '../config/problem.ts';

export interface ReloadOptions {
  load(): Promise<Loaded>;
  apply(config: Config): void;
  refuse(message: string): void;
  readonly timeoutMs: number;
}

/**
 * Creates the function that reloads the configuration. It never rejects, and resolves when the config was applied or
 * refused. A call during a reload causes one more reload afterwards, so that the last version of the file counts. A
 * file that takes too long is given up. Until its read ends no other is started, since each occupies one of Node's few
 * threads.
 */
export function createReload(options: ReloadOptions): () => Promise<void> {
  let running: Promise<void> | null = null;
  let isWanted = false;
  const read = createRead(options);
  const run = async (): Promise<void> => {
    while (isWanted) {
      isWanted = false;
      await reloadOnce(options, read);
    }
    running = null;
  };
  return () => {
    isWanted = true;
    running ??= run();
    return running;
  };
}

async function reloadOnce({ apply, refuse }: ReloadOptions, read: () => Promise<Loaded | string>): Promise<void> {
  try {
    const loaded = await read();
    if (typeof loaded === 'string') refuse(loaded);
    else if (loaded.ok) apply(loaded.config);
    else refuse(formatProblems(loaded.problems));
  } catch (error) {
    refuse(`the reload failed: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Reads the file; returns a message if it takes too long. */
function createRead({ load, timeoutMs }: ReloadOptions): () => Promise<Loaded | string> {
  let isHanging = false;
  return async () => {
    if (isHanging) return 'the file could not be read: the previous read is still waiting for the disk';
    const over = new AbortController();
    isHanging = true;
    const loading = load().finally(() => {
      isHanging = false;
    });
    // After the timeout its result does not matter.
    loading.catch(() => undefined);
    const late = delay(timeoutMs, `the file could not be read within ${timeoutMs} ms`, {
      signal: over.signal,
      ref: false,
    });
    try {
      return await Promise.race([loading, late]);
    } finally {
      over.abort();
      late.catch(() => undefined);
    }
  };
}
