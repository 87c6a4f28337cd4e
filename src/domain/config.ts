/** The part of the configuration that decisions depend on, validated and in plain units. `src/config.ts` makes it. */

export interface NodeConfig {
  readonly nodeId: string;
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
  readonly start: { readonly mode: 'exec'; readonly timeoutMs: number; readonly parallel: number };
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
    /** 0: no limit. `samples` in a row must be over the soft limit. */
    readonly memory: { readonly softBytes: number; readonly hardBytes: number };
    /** Share of a limit by which workers' own limits are spread below it, 0 to 0.9. */
    readonly jitter: number;
    readonly maxSurge: number;
    readonly maxUnavailable: number;
    readonly minLifetimeMs: number;
  };
  readonly restart: { readonly backoffMinMs: number; readonly backoffMaxMs: number; readonly resetAfterMs: number };
  readonly drain: { readonly timeoutMs: number; readonly killAfterMs: number };
  readonly queue: { readonly maxRequests: number; readonly maxBytes: number };
  readonly request: {
    readonly timeoutMs: number;
    /** How often an idempotent request may be sent. */
    readonly maxAttempts: number;
    /** How long a worker may go on with a request whose deadline passed; 0: for ever. */
    readonly killAfterMs: number;
    readonly affinity: 'off' | 'hint' | 'strict';
  };
  /** A request that was running in `after` crashed workers is refused for so long; 0: never. */
  readonly poison: { readonly after: number; readonly forMs: number };
}

/** Words of everything that makes a running worker out of date when it changes: those that reach the process. */
export function workerFingerprint(pool: PoolConfig): string {
  const env = Object.entries(pool.env).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([pool.app, pool.python, pool.cwd, env, pool.concurrency, pool.start.mode]);
}
