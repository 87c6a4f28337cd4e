/**
 * The part of the configuration that decisions depend on, validated and in plain units. `src/config/load.ts` makes it.
 */

export interface NodeConfig {
  readonly nodeId: string;
  /** Available memory of the host below which no surge workers are started; 0: not watched. */
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
  /** Values may contain `{slot}` and `{pool}`. */
  readonly env: Readonly<Record<string, string>>;
  readonly size: number;
  /** Maximum number of requests in flight per worker. */
  readonly concurrency: number;
  readonly start: {
    readonly mode: 'exec';
    readonly timeoutMs: number;
    readonly parallel: number;
    /** A command that a new worker runs before it is ready, with its arguments as JSON. */
    readonly warmUp: { readonly command: string; readonly payload: string } | null;
  };
  readonly heartbeat: {
    readonly intervalMs: number;
    readonly timeoutMs: number;
    readonly maxMissed: number;
    /** How long a worker may miss pings while it still uses CPU or delivers results. */
    readonly busyLimitMs: number;
  };
  readonly recycle: {
    /** 0: no limit. */
    readonly maxAgeMs: number;
    /** 0: no limit. */
    readonly maxRequests: number;
    /** 0: no limit. */
    readonly maxIdleMs: number;
    /** Bytes, 0: no limit. The soft limit is exceeded once `samples` of the last `of` samples are above it. */
    readonly memory: MemoryLimits;
    /** The workers' own limits are spread over this share below the configured limit, 0 to 0.9. */
    readonly jitter: number;
    readonly maxSurge: number;
    readonly maxUnavailable: number;
    readonly minLifetimeMs: number;
  };
  readonly restart: {
    readonly backoffMinMs: number;
    readonly backoffMaxMs: number;
    readonly resetAfterMs: number;
    /** Consecutive failed starts after which a changed config is abandoned for the last good one. */
    readonly quarantineAfter: number;
  };
  readonly drain: { readonly timeoutMs: number; readonly killAfterMs: number };
  /** How long a worker waits for another agent after its own has gone. */
  readonly orphanTimeoutMs: number;
  readonly queue: { readonly maxRequests: number; readonly maxBytes: number };
  readonly request: {
    readonly timeoutMs: number;
    /** How often an idempotent request may be attempted. */
    readonly maxAttempts: number;
    /** How long a worker may continue a request whose deadline has passed; 0: forever. */
    readonly killAfterMs: number;
    readonly affinity: 'off' | 'hint' | 'strict';
    /** Limits of the undelivered answers that a worker keeps: for how long, how many, and how many bytes. */
    readonly keep: { readonly forMs: number; readonly maxResults: number; readonly maxBytes: number };
  };
  /** A request that was running in `after` crashed workers is refused for `forMs`; 0: never. */
  readonly poison: { readonly after: number; readonly forMs: number };
  readonly limits: ProcessLimits;
  /** `maxSeries`: how many series of measurements the pool's applications may have in /metrics; 0: telemetry is off. */
  readonly telemetry: { readonly maxSeries: number };
}

/** Limits of a worker's processes; 0: no limit beyond the system's. */
export interface ProcessLimits {
  /** Number of processes and threads. */
  readonly pids: number;
  readonly memoryBytes: number;
  /** Per process. */
  readonly openFiles: number;
}

export interface MemoryLimits {
  readonly softBytes: number;
  readonly hardBytes: number;
  readonly samples: number;
  readonly of: number;
}

/** A text of everything in the config that reaches a worker's process. If it changes, running workers are outdated. */
export function workerFingerprint(pool: PoolConfig): string {
  let fingerprint = fingerprints.get(pool);
  if (fingerprint === undefined) {
    const env = Object.entries(pool.env).sort(([a], [b]) => (a < b ? -1 : 1));
    // Without limits the text equals that of releases that had none, so that an upgrade replaces no workers.
    const { pids, memoryBytes, openFiles } = pool.limits;
    const limits = pids + memoryBytes + openFiles === 0 ? [] : [[pids, memoryBytes, openFiles]];
    fingerprint = JSON.stringify([pool.app, pool.python, pool.cwd, env, pool.concurrency, pool.start.mode, ...limits]);
    fingerprints.set(pool, fingerprint);
  }
  return fingerprint;
}

/** Cached: each worker asks for it in each step. A config never changes; a pool gets a new one. */
const fingerprints = new WeakMap<PoolConfig, string>();

/** Like `workerFingerprint`, but including everything else that decides whether a start succeeds. */
export function launchFingerprint(pool: PoolConfig): string {
  return JSON.stringify([workerFingerprint(pool), pool.start.warmUp, pool.start.timeoutMs]);
}
