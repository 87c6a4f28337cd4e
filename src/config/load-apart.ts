import { Worker } from 'node:worker_threads';
import type { LoadEnvironment, Loaded, Overrides } from './load.ts';
import { loadConfig } from './load.ts';

/** The input of the thread. */
export interface LoadRequest {
  readonly file: string;
  readonly env: LoadEnvironment;
  readonly overrides: Overrides;
}

/** Many times the memory that a file of 1 MiB needs. */
const threadMaxMib = 512;

/**
 * Reads a configuration in a separate thread. Parsing a mebibyte takes a second, during which the agent could neither
 * answer calls nor ping workers. If no thread can be started, the file is read in this one. Never rejects.
 */
export function loadApart(file: string, env: LoadEnvironment, overrides: Overrides): Promise<Loaded> {
  const { runtimeDir, stateDir, http, listen } = overrides;
  const request: LoadRequest = {
    file,
    env: { ...env, variables: { ...env.variables } },
    overrides: { runtimeDir, stateDir, http, listen },
  };
  return new Promise((resolve) => {
    let isRead = false;
    const done = (loaded: Loaded): void => {
      isRead = true;
      resolve(loaded);
    };
    const here = (): void => {
      if (!isRead) void loadConfig(file, env, overrides).then(done);
    };
    try {
      const thread = new Worker(new URL('./load-thread.js', import.meta.url), {
        workerData: request,
        resourceLimits: { maxOldGenerationSizeMb: threadMaxMib },
      });
      thread.unref();
      let failure: NodeJS.ErrnoException | null = null;
      thread.once('error', (error) => {
        failure = error;
      });
      thread.once('message', done);
      // Comes after the message, if there was one.
      thread.once('exit', () => (isOutOfMemory(failure) ? done(tooLarge(file)) : here()));
    } catch {
      here();
    }
  });
}

function isOutOfMemory(error: NodeJS.ErrnoException | null): boolean {
  return error?.code === 'ERR_WORKER_OUT_OF_MEMORY';
}

function tooLarge(file: string): Loaded {
  const message = `needs more than ${threadMaxMib} MiB of memory to be read`;
  return { ok: false, problems: [{ file, line: 0, column: 0, path: '', message }] };
}
