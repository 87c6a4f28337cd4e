/** The part of the configuration that decisions depend on, validated and in plain units. `src/config.ts` makes it. */

export interface NodeConfig {
  readonly nodeId: string;
  /** Available memory of the host below which surges stop; 0: it is not looked at. */
  readonly memoryFloorBytes: number;
  readonly pools: ReadonlyMap<string, PoolConfig>;
}

export interface PoolConfig {
  readonly name: string;
  /** `module:attribute` of the pitwarden.App. */
  readonly app: string;
  /** The Python interpreter to run. */
  readonly python: string;
  readonly cwd: string;
  /** Values may hold `{slot}` and `{pool}`. */
  readonly env: Readonly<Record<string, string>>;
  readonly size: number;
  /** Requests that one worker may have at once. */
  readonly concurrency: number;
  readonly start: {
    readonly mode: 'exec';
    readonly timeoutMs: number;
    readonly parallel: number;
    /** What a new worker runs before it is ready: a command and its arguments as JSON. */
    readonly warmUp: { readonly command: string; readonly payload: string } | null;
  };
  readonly heartbeat: {
    readonly intervalMs: number;
    readonly timeoutMs: number;
    readonly maxMissed: number;
    /** Longest time a worker may miss its pings while it still burns cpu or brings results. */
    readonly busyLimitMs: number;
  };
  readonly recycle: {
    /** 0: no limit. */
    readonly maxAgeMs: number;
    /** 0: no limit. */
    readonly maxRequests: number;
    /** 0: no limit. */
    readonly maxIdleMs: number;
    /** Bytes, 0: no limit. `samples` of the last `of` must be over the soft limit. */
    readonly memory: MemoryLimits;
    /** Share of a limit by which workers' own limits are spread below it, 0 to 0.9. */
    readonly jitter: number;
    readonly maxSurge: number;
    readonly maxUnavailable: number;
    readonly minLifetimeMs: number;
  };
  readonly restart: {
    readonly backoffMinMs: number;
    readonly backoffMaxMs: number;
    readonly resetAfterMs: number;
    /** Failed starts in a row after which a changed config is given up for the last good one. */
    readonly quarantineAfter: number;
  };
  readonly drain: { readonly timeoutMs: number; readonly killAfterMs: number };
  /** How long a worker waits for another agent when its own has gone. */
  readonly orphanTimeoutMs: number;
  readonly queue: { readonly maxRequests: number; readonly maxBytes: number };
  readonly request: {
    readonly timeoutMs: number;
    /** How often an idempotent request may be sent. */
    readonly maxAttempts: number;
    /** How long a worker may go on with a request whose deadline passed; 0: for ever. */
    readonly killAfterMs: number;
    readonly affinity: 'off' | 'hint' | 'strict';
    /** Answers that could not be delivered: how long, how many and how much of them a worker keeps. */
    readonly keep: { readonly forMs: number; readonly maxResults: number; readonly maxBytes: number };
  };
  /** A request that was running in `after` crashed workers is refused for so long; 0: never. */
  readonly poison: { readonly after: number; readonly forMs: number };
  readonly limits: ProcessLimits;
}

/** What a worker's processes may have; 0: as much as the system gives. */
export interface ProcessLimits {
  /** Processes and threads. */
  readonly pids: number;
  readonly memoryBytes: number;
  /** Of each process. */
  readonly openFiles: number;
}

export interface MemoryLimits {
  readonly softBytes: number;
  readonly hardBytes: number;
  readonly samples: number;
  readonly of: number;
}

/** Words of everything that makes a running worker out of date when it changes: those that reach the process. */
export function workerFingerprint(pool: PoolConfig): string {
  let words = fingerprints.get(pool);
  if (words === undefined) {
    const env = Object.entries(pool.env).sort(([a], [b]) => (a < b ? -1 : 1));
    // Without limits the words are those of agents that knew none: an upgrade replaces no worker for them.
    const { pids, memoryBytes, openFiles } = pool.limits;
    const limits = pids + memoryBytes + openFiles === 0 ? [] : [[pids, memoryBytes, openFiles]];
    words = JSON.stringify([pool.app, pool.python, pool.cwd, env, pool.concurrency, pool.start.mode, ...limits]);
    fingerprints.set(pool, words);
  }
  return words;
}

/** Asked for by each worker at each turn, and never changed: a pool's config is replaced whole. */
const fingerprints = new WeakMap<PoolConfig, string>();

/** The same, and what else decides whether a start succeeds. */
export function launchFingerprint(pool: PoolConfig): string {
  return JSON.stringify([workerFingerprint(pool), pool.start.warmUp, pool.start.timeoutMs]);
}
