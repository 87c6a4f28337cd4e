import { setTimeout as delay } from 'node:timers/promises';
import type { Config, Loaded } from '../config/load.ts';
import type { Problem } from '../config/problem.ts';
import { formatProblems } from '../config/problem.ts';
import type { Plan } from '../domain/plan.ts';

export interface ReloadOptions {
  /** The configuration file, for problems of the file as a whole. */
  readonly file: string;
  load(): Promise<Loaded>;
  /** What this configuration would change now. */
  plan(config: Config): ReloadPlan;
  apply(config: Config): void;
  /** A reload was refused for this reason. */
  refuse(message: string): void;
  readonly timeoutMs: number;
}

export interface ReloadPlan {
  readonly plan: Plan;
  /** Keys that differ from those that the agent started with, and take effect with its next start. */
  readonly restartNeeded: readonly string[];
}

/** Either everything that is wrong with the file, or what it changes. */
export type ReloadOutcome =
  | { readonly ok: false; readonly problems: readonly Problem[] }
  | ({ readonly ok: true } & ReloadPlan);

export interface Reload {
  /** Reads the file and applies it. The plan is that of the moment before. Never rejects. */
  apply(): Promise<ReloadOutcome>;
  /** Reads the file and changes nothing. Never rejects. */
  plan(): Promise<ReloadOutcome>;
}

interface Call {
  readonly applies: boolean;
  done(outcome: ReloadOutcome): void;
}

/**
 * Reads the configuration again, for SIGHUP and ReloadConfig alike. Calls during a read share one more read afterwards, so that
 * the last version of the file counts. A file that takes too long is given up. Until its read ends no other is started, since each
 * occupies one of Node's few threads.
 */
export function createReload(options: ReloadOptions): Reload {
  let waiting: Call[] = [];
  let isRunning = false;
  const read = createRead(options);
  const run = async (): Promise<void> => {
    if (isRunning) return;
    isRunning = true;
    while (waiting.length > 0) {
      const calls = waiting;
      waiting = [];
      const applies = calls.some((call) => call.applies);
      const outcome = await reloadOnce(options, read, applies);
      for (const call of calls) call.done(outcome);
    }
    isRunning = false;
  };
  const call = (applies: boolean): Promise<ReloadOutcome> =>
    new Promise((done) => {
      waiting.push({ applies, done });
      void run();
    });
  return { apply: () => call(true), plan: () => call(false) };
}

async function reloadOnce(
  options: ReloadOptions,
  read: () => Promise<Loaded>,
  applies: boolean,
): Promise<ReloadOutcome> {
  const refused = (problems: readonly Problem[]): ReloadOutcome => {
    if (applies) options.refuse(formatProblems(problems));
    return { ok: false, problems };
  };
  try {
    const loaded = await read();
    if (!loaded.ok) return refused(loaded.problems);
    const planned = options.plan(loaded.config);
    if (applies) options.apply(loaded.config);
    return { ok: true, ...planned };
  } catch (error) {
    return refused([
      problemOf(options, `the reload failed: ${error instanceof Error ? error.message : String(error)}`),
    ]);
  }
}

/** Reads the file; returns a problem if it takes too long. */
function createRead(options: ReloadOptions): () => Promise<Loaded> {
  const { load, timeoutMs } = options;
  const failed = (message: string): Loaded => ({ ok: false, problems: [problemOf(options, message)] });
  let isHanging = false;
  return async () => {
    if (isHanging) return failed('the file could not be read: the previous read is still waiting for the disk');
    const over = new AbortController();
    isHanging = true;
    const loading = load().finally(() => {
      isHanging = false;
    });
    // After the timeout its result does not matter.
    loading.catch(() => undefined);
    const late = delay(timeoutMs, failed(`the file could not be read within ${timeoutMs} ms`), {
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

function problemOf({ file }: Pick<ReloadOptions, 'file'>, message: string): Problem {
  return { file, line: 0, column: 0, path: '', message };
}
