import type { PoolConfig } from './config.ts';
import type { Reason } from './reason.ts';

/** All that the agent has decided and seen. Never mutated: `step` returns the next one. */
export interface State {
  readonly node: NodeStatus;
  readonly pools: ReadonlyMap<string, Pool>;
  readonly workers: ReadonlyMap<string, Worker>;
  /** Grows with every step that changed something a watcher can see. */
  readonly revision: number;
  /** When the loop meant to wake next: what it is late by is its own lag, and never a worker's fault. */
  readonly wakeAtMs: number;
}

export interface NodeStatus {
  readonly phase: 'running' | 'draining' | 'stopping' | 'stopped';
  readonly stoppingSinceMs: number;
  /** What was wrong with the last reload; empty when it was taken. */
  readonly configError: string;
  /** Keys whose values differ from those that the agent was started with, and that it takes only at its start. */
  readonly restartNeeded: readonly string[];
  readonly host: Host;
  readonly ledger: Ledger;
  /** Trees of an earlier agent's workers that are still being ended, by worker id. */
  readonly leftovers: ReadonlyMap<string, Leftover>;
}

/** A shutdown is under way, or over. */
export function isStopping({ phase }: NodeStatus): boolean {
  return phase === 'stopping' || phase === 'stopped';
}

/** What a worker of an earlier agent left: its processes may still use what belongs to its slot. */
export interface Leftover {
  readonly workerId: string;
  readonly pool: string;
  readonly slot: number;
  readonly generation: number;
}

/** Whether workers can be entered in the ledger; without that none is started. */
export interface Ledger {
  /** Why the last entry could not be made; empty: it was. */
  readonly error: string;
  /** When the next start may try again. */
  readonly nextTryAtMs: number;
}

/** The host's memory, which all workers share. */
export interface Host {
  /** The config's memory_floor; 0: it is not looked at. */
  readonly floorBytes: number;
  /** 0: unknown. */
  readonly availableBytes: number;
  readonly nextSampleAtMs: number;
  /** Samples in a row below the floor. */
  readonly lowSamples: number;
  /** Workers replaced to give memory back since the host last had enough, and when the next one may be. */
  readonly pressureRecycles: number;
  readonly nextReliefAtMs: number;
}

export interface Pool {
  readonly name: string;
  readonly config: PoolConfig;
  readonly fingerprint: string;
  /** The same of all that a start depends on. */
  readonly launch: string;
  /** The last config with which a worker became ready; null: none has yet. */
  readonly lastGoodConfig: Pick<Pool, 'config' | 'fingerprint' | 'launch'> | null;
  /** Failed starts in a row with a config that is not the good one. */
  readonly startFailures: number;
  /** Why its config was given up for the good one; empty: it was not. */
  readonly quarantine: string;
  readonly roll: Roll | null;
  /** `removed`: no longer in the config; it goes when its last worker has gone. */
  readonly phase: 'running' | 'draining' | 'removed';
  readonly size: number;
  /** The places to keep filled: as many as `size`. */
  readonly slots: ReadonlyMap<number, Slot>;
  /** Newest generation that each place ever had; a place that was taken away may come back. */
  readonly generations: ReadonlyMap<number, number>;
  /** Starts in a row that failed, of all its slots; a worker that becomes ready, or another config, forgives them. */
  readonly failedStarts: number;
  /** Whether dispatch was last told to take requests, and why not. */
  readonly open: boolean;
  readonly closedBecause: string;
  /** When it was removed or the node began to stop; 0: neither. */
  readonly closingSinceMs: number;
  readonly lastFailure: { readonly message: string; readonly atMs: number } | null;
}

export const rollPhases = ['running', 'paused', 'done', 'aborted', 'failed'] as const;

/** Replacement of all workers that a pool had at one moment. A roll that is open when its agent ends goes on in the next one. */
export interface Roll {
  /** Unique for ever. */
  readonly id: string;
  readonly phase: (typeof rollPhases)[number];
  readonly startedAtMs: number;
  /** 0: it goes on. */
  readonly endedAtMs: number;
  /** How many workers were to be replaced when it began. */
  readonly total: number;
  /** The workers to be replaced, also when they have gone. Of a roll that has ended: those whose replacement had begun. */
  readonly old: ReadonlySet<string>;
  /** How many workers the roll had not come to when it ended. */
  readonly skipped: number;
  /** Unplanned ends of those that were started since; at `maxFailures` the roll ends. */
  readonly failures: number;
  readonly maxFailures: number;
  /** Why it ended before it was done. */
  readonly message: string;
}

export interface Slot {
  readonly index: number;
  /** Unplanned ends in a row, of each kind. */
  readonly failures: Failures;
  /** End of its back-off; 0: there is none. */
  readonly nextStartAtMs: number;
}

/** What a slot's failures are counted as: a worker that leaks does not use up the patience with one that crashes. */
export type Budget = 'start' | 'crash' | 'memory';
export type Failures = Readonly<Record<Budget, number>>;
export const noFailures: Failures = { start: 0, crash: 0, memory: 0 };

export type Phase = 'starting' | 'ready' | 'draining' | 'stopping' | 'exited';

/**
 * Where each phase may go. `starting` may end before it was ready; an exit can come at any time, since processes do not
 * ask; only `exited` leads out, when the whole process tree was seen to be gone.
 */
export const transitions: Readonly<Record<Phase, readonly Phase[]>> = {
  starting: ['ready', 'stopping', 'exited'],
  ready: ['draining', 'stopping', 'exited'],
  draining: ['stopping', 'exited'],
  stopping: ['exited'],
  exited: [],
};

export type Health = 'unknown' | 'well' | 'slow' | 'busy' | 'hung';

export interface Worker {
  readonly id: string;
  readonly pool: string;
  readonly slot: number;
  readonly generation: number;
  /** What its pool's config looked like when it was born. */
  readonly fingerprint: string;
  readonly launch: string;
  readonly phase: Phase;
  /** 0 until it is known to have been spawned. */
  readonly pid: number;
  readonly startedAtMs: number;
  /** 0 until it is known to have been spawned. */
  readonly spawnedAtMs: number;
  /** 0 until ready. */
  readonly readyAtMs: number;
  /** Requests that it may have at once: what it was started with, whatever the config says by now. */
  readonly concurrency: number;
  readonly limits: Limits;
  /** A planned replacement it waits for; it goes on serving meanwhile. */
  readonly due: Due | null;
  /** Why it is being ended or has ended. The first reason stays. */
  readonly ending: Reason | null;
  /** Start timeout, drain timeout, or the next rung of the ladder; 0: none. */
  readonly deadlineMs: number;
  readonly rung: Rung | null;
  /** Why it was killed, in words; empty: it was not. */
  readonly killedBecause: string;
  readonly linkLostAtMs: number;
  readonly attached: boolean;
  /** What it runs before it is ready. */
  readonly warmUp: PoolConfig['start']['warmUp'];
  readonly hello: Hello | null;
  readonly heartbeat: Heartbeat;
  readonly health: Health;
  readonly usage: Usage;
  readonly exit: Exit | null;
}

export interface Due {
  /** The first one stays. */
  readonly reason: Reason;
  readonly atMs: number;
  /** The most pressing one since: it says whose turn it is. */
  readonly pressing: Reason;
}

/** Rungs of the ladder below a drain, mildest first. */
export type Rung = 'stop' | 'term' | 'inspect' | 'kill';

/** A worker's own limits, drawn at birth. 0: no limit. */
export interface Limits {
  readonly maxAgeMs: number;
  readonly maxRequests: number;
}

export interface Hello {
  readonly commands: readonly OfferedCommand[];
  readonly sdkVersion: string;
  readonly pythonVersion: string;
  readonly start: StartTimes;
}

export interface OfferedCommand {
  readonly name: string;
  /** One line for people. */
  readonly summary: string;
  readonly streams: boolean;
}

/** What the steps of a worker's start took, in milliseconds. */
export interface StartTimes {
  /** From the birth of the process to the SDK's first line; 0: unknown. */
  readonly interpreterMs: number;
  readonly importMs: number;
  readonly hooksMs: number;
}

export interface Heartbeat {
  readonly sequence: number;
  readonly nextPingAtMs: number;
  /** Pings since the last one that were not sent, since evidence of work said as much. */
  readonly spared: number;
  /** Pings without an answer, oldest first. */
  readonly unanswered: readonly { readonly sequence: number; readonly sentAtMs: number }[];
  readonly lastPongAtMs: number;
  readonly roundTripMs: number;
  /** Unanswered pings older than the timeout. */
  readonly missed: number;
  readonly busySinceMs: number;
  /** What the last pong said. */
  readonly told: PongTold;
  /** What the agent's own lag took off the ages of pings, in all. */
  readonly forgivenMs: number;
}

/** What a worker says of itself with a pong. */
export interface PongTold {
  /** Requests running. */
  readonly running: number;
  /** Age of the oldest of them. */
  readonly oldestMs: number;
  /** Lag of its asyncio loop; 0: it has none. */
  readonly loopLagMs: number;
}

export interface Usage {
  readonly nextSampleAtMs: number;
  /** When it was last asked for one. */
  readonly askedAtMs: number;
  readonly samples: number;
  readonly sampledAtMs: number;
  readonly rssBytes: number;
  /** As it must be now, by what was last read and what has left RSS since; 0: it was never read. */
  readonly pssBytes: number;
  /** PSS when it was last read, and RSS at that time. */
  readonly readPssBytes: number;
  readonly rssAtPssBytes: number;
  /** 0: its cgroup has no memory controller. */
  readonly cgroupBytes: number;
  readonly cpuMs: number;
  /** Share of a core over the last sample. */
  readonly cpu: number;
  readonly cpuAdvancedAtMs: number;
  /** State letter of its main process; empty: unknown. */
  readonly state: string;
  /** The last samples, newest in the lowest bit: 1 where it was above the soft limit. */
  readonly overSoft: number;
  readonly overHard: boolean;
  /** What its tree held lately, oldest first. */
  readonly history: readonly MemoryPoint[];
  /** The same when it was first measured as ready. */
  readonly firstBytes: number;
}

export interface MemoryPoint {
  readonly atMs: number;
  readonly bytes: number;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: string | null;
  /** The kernel says that it killed for want of memory; absent: it did not, or cannot tell. */
  readonly outOfMemory?: boolean;
}

export function initialState(): State {
  return {
    node: {
      phase: 'running',
      stoppingSinceMs: 0,
      configError: '',
      restartNeeded: [],
      host: {
        floorBytes: 0,
        availableBytes: 0,
        nextSampleAtMs: 0,
        lowSamples: 0,
        pressureRecycles: 0,
        nextReliefAtMs: 0,
      },
      ledger: { error: '', nextTryAtMs: 0 },
      leftovers: new Map(),
    },
    pools: new Map(),
    workers: new Map(),
    revision: 0,
    wakeAtMs: Number.POSITIVE_INFINITY,
  };
}

/** What is known of a worker before it is spawned. */
export type WorkerSpec = Pick<
  Worker,
  'id' | 'pool' | 'slot' | 'generation' | 'fingerprint' | 'launch' | 'startedAtMs' | 'concurrency' | 'limits'
>;

/** A worker at its birth: nothing is known of it but what it is to be. */
export function newWorker(born: WorkerSpec & Pick<Worker, 'deadlineMs' | 'warmUp'>): Worker {
  return {
    ...born,
    phase: 'starting',
    pid: 0,
    spawnedAtMs: 0,
    readyAtMs: 0,
    due: null,
    ending: null,
    rung: null,
    killedBecause: '',
    linkLostAtMs: 0,
    attached: false,
    hello: null,
    heartbeat: {
      sequence: 0,
      nextPingAtMs: 0,
      spared: 0,
      unanswered: [],
      lastPongAtMs: 0,
      roundTripMs: 0,
      missed: 0,
      busySinceMs: 0,
      told: { running: 0, oldestMs: 0, loopLagMs: 0 },
      forgivenMs: 0,
    },
    health: 'unknown',
    usage: {
      nextSampleAtMs: 0,
      askedAtMs: 0,
      samples: 0,
      sampledAtMs: 0,
      rssBytes: 0,
      pssBytes: 0,
      readPssBytes: 0,
      cgroupBytes: 0,
      rssAtPssBytes: 0,
      cpuMs: 0,
      cpu: 0,
      cpuAdvancedAtMs: 0,
      state: '',
      overSoft: 0,
      overHard: false,
      history: [],
      firstBytes: 0,
    },
    exit: null,
  };
}
