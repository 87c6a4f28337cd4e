import { setTimeout as delay } from 'node:timers/promises';
import type { Config, Loaded } from '../config/load.ts';
import { formatProblems } from '../config/problem.ts';

export interface ReloadOptions {
  load(): Promise<Loaded>;
  take(config: Config): void;
  refuse(message: string): void;
  readonly timeoutMs: number;
}

/**
 * Makes the function that reads the configuration again. It never rejects, and resolves when the config was taken or refused.
 * Called while a reload runs it makes one more follow, so that the last version of the file counts. A file that does not
 * come within the time is given up; while that read lasts no other is begun, since each occupies one of Node's few threads.
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

async function reloadOnce({ take, refuse }: ReloadOptions, read: () => Promise<Loaded | string>): Promise<void> {
  try {
    const loaded = await read();
    if (typeof loaded === 'string') refuse(loaded);
    else if (loaded.ok) take(loaded.config);
    else refuse(formatProblems(loaded.problems));
  } catch (error) {
    refuse(`the reload failed: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** The file, or why it did not come. */
function createRead({ load, timeoutMs }: ReloadOptions): () => Promise<Loaded | string> {
  let isHanging = false;
  return async () => {
    if (isHanging) return 'the file could not be read: the read before this one still waits for its disk';
    const over = new AbortController();
    isHanging = true;
    const loading = load().finally(() => {
      isHanging = false;
    });
    // Once it is given up its outcome is of no interest.
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
