import type { PoolConfig } from './config.ts';
import type { Reason } from './reason.ts';

/** Everything that the agent has decided and seen. Never mutated: `step` returns the next state. */
export interface State {
  readonly node: NodeStatus;
  readonly pools: ReadonlyMap<string, Pool>;
  readonly workers: ReadonlyMap<string, Worker>;
  /** Increases with every step that changes something watchers can see. */
  readonly revision: number;
  /** When the loop meant to wake next. If it wakes later, that is its own lag and no worker's fault. */
  readonly wakeAtMs: number;
}

export interface NodeStatus {
  readonly phase: 'running' | 'draining' | 'stopping' | 'stopped';
  readonly stoppingSinceMs: number;
  /** What was wrong with the last reload; empty if it succeeded. */
  readonly configError: string;
  /** Keys that changed since the agent started and take effect only at its next start. */
  readonly restartNeeded: readonly string[];
  readonly host: HostMemory;
  readonly blockedStarts: BlockedStarts;
  /** Process trees of an earlier agent's workers that are still being ended, by worker id. */
  readonly leftovers: ReadonlyMap<string, Leftover>;
  /** The last intent of a control plane; null: there was none. */
  readonly intent: Intent | null;
}

/** All that a control plane wants of this node. A pool that it does not name is as the config says. */
export interface Intent {
  /** Identifies the control plane's store. */
  readonly clusterUid: string;
  /** Grows with each leader, and the generation with each intent of one leader. */
  readonly epoch: number;
  readonly generation: number;
  /** Who set it, as messages name it. */
  readonly controller: string;
  /** Management has ended. What was refused by its epoch and generation stays refused. */
  readonly released: boolean;
  /** The node takes no new requests. */
  readonly drained: boolean;
  /** Sorted by name. */
  readonly pools: readonly PoolIntent[];
}

export interface PoolIntent {
  readonly pool: string;
  readonly size: number;
  readonly drained: boolean;
}

/** A shutdown is in progress or finished. */
export function isStopping({ phase }: NodeStatus): boolean {
  return phase === 'stopping' || phase === 'stopped';
}

/** Processes that a worker of an earlier agent left; they may still use resources of its slot. */
export interface Leftover {
  readonly workerId: string;
  readonly pool: string;
  readonly slot: number;
  readonly generation: number;
}

/** No worker is started while the ledger takes no entries, or the host lacks a resource for another process. */
export interface BlockedStarts {
  /** Why the last start was blocked; empty if starts are not blocked. */
  readonly because: string;
  /** When the next start may be tried. */
  readonly nextTryAtMs: number;
}

/** The host's memory, which all workers share. */
export interface HostMemory {
  /** The config's memory_floor; 0: not watched. */
  readonly floorBytes: number;
  /** 0 if unknown. */
  readonly availableBytes: number;
  readonly nextSampleAtMs: number;
  /** Consecutive samples below the floor. */
  readonly lowSamples: number;
  /** Workers replaced to free memory since the host last had enough, and when the next one may be replaced. */
  readonly pressureRecycles: number;
  readonly nextPressureRecycleAtMs: number;
}

export interface Pool {
  readonly name: string;
  readonly config: PoolConfig;
  readonly fingerprint: string;
  /** Fingerprint of everything that a start depends on (`launchFingerprint`). */
  readonly launch: string;
  /** The last config with which a worker became ready; null if there is none yet. */
  readonly lastGoodConfig: Pick<Pool, 'config' | 'fingerprint' | 'launch'> | null;
  /** Consecutive failed starts with a config other than the last good one. */
  readonly startFailures: number;
  /** Why the config was abandoned for the last good one; empty if it was not. */
  readonly quarantine: string;
  readonly roll: Roll | null;
  /** `removed`: no longer in the config; the pool is deleted once its last worker is gone. */
  readonly phase: 'running' | 'draining' | 'removed';
  readonly size: number;
  /** The slots to keep filled, `size` of them. */
  readonly slots: ReadonlyMap<number, Slot>;
  /** The newest generation that each slot ever had; a removed slot may come back. */
  readonly generations: ReadonlyMap<number, number>;
  /** Consecutive failed starts over all slots. Reset when a worker becomes ready or the config changes. */
  readonly failedStarts: number;
  /** Whether dispatch was last told to accept requests, and why not. */
  readonly open: boolean;
  readonly closedBecause: string;
  /** When the pool was removed or the node began to stop; 0: neither. */
  readonly closingSinceMs: number;
  readonly lastFailure: { readonly message: string; readonly atMs: number } | null;
}

export const rollPhases = ['running', 'paused', 'done', 'aborted', 'failed'] as const;

/**
 * Replacement of all workers that a pool had at one moment. If its agent ends, the next agent continues an open roll.
 */
export interface Roll {
  /** Unique forever. */
  readonly id: string;
  readonly phase: (typeof rollPhases)[number];
  readonly startedAtMs: number;
  /** 0 while it is open. */
  readonly endedAtMs: number;
  /** Number of workers to replace when it began. */
  readonly total: number;
  /**
   * The workers to replace, even if they are gone already. After the roll has ended: those whose replacement had begun.
   */
  readonly old: ReadonlySet<string>;
  /** Number of workers that were not replaced when the roll ended. */
  readonly skipped: number;
  /** Unplanned ends of workers that were started during the roll; at `maxFailures` the roll fails. */
  readonly failures: number;
  readonly maxFailures: number;
  /** Why it ended early. */
  readonly message: string;
}

export interface Slot {
  readonly index: number;
  /** Consecutive unplanned ends, by kind. */
  readonly failures: Failures;
  /** End of its back-off; 0: none. */
  readonly nextStartAtMs: number;
}

/**
 * Kinds of failures, which are counted separately: a worker that leaks does not use up the restarts of one that
 * crashes.
 */
export type FailureKind = 'start' | 'crash' | 'memory';
export type Failures = Readonly<Record<FailureKind, number>>;
export const noFailures: Failures = { start: 0, crash: 0, memory: 0 };

export type Phase = 'starting' | 'ready' | 'draining' | 'stopping' | 'exited';

/**
 * The legal moves between phases. A worker may end before it is ready, and may exit at any time. After the sweep of its process
 * tree it is removed from the state, even if processes survived the sweep.
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
  /** Fingerprint of its pool's config when the worker was started. */
  readonly fingerprint: string;
  readonly launch: string;
  readonly phase: Phase;
  /** 0 until it is spawned. */
  readonly pid: number;
  readonly startedAtMs: number;
  /** 0 until it is spawned. */
  readonly spawnedAtMs: number;
  /** 0 until it is ready. */
  readonly readyAtMs: number;
  /** Maximum number of requests in flight: the value it was started with, even if the config has changed. */
  readonly concurrency: number;
  readonly limits: Limits;
  /** The planned replacement that it waits for; it serves meanwhile. */
  readonly due: Due | null;
  /** Why it is being ended or has ended. The first reason stays. */
  readonly ending: Reason | null;
  /** Deadline of its start, drain or stop stage; 0: none. */
  readonly deadlineMs: number;
  readonly stopStage: StopStage | null;
  /** Why it was killed; empty if it was not. */
  readonly killedBecause: string;
  readonly linkLostAtMs: number;
  readonly attached: boolean;
  /** The command that it runs before it is ready. */
  readonly warmUp: PoolConfig['start']['warmUp'];
  readonly hello: Hello | null;
  readonly heartbeat: Heartbeat;
  readonly health: Health;
  readonly usage: Usage;
  readonly exit: Exit | null;
}

export interface Due {
  /** The first reason; it stays. */
  readonly reason: Reason;
  readonly atMs: number;
  /** The most pressing reason since; it decides whose turn it is. */
  readonly mostPressing: Reason;
}

/** Stages of a stop after the drain, mildest first. */
export type StopStage = 'stop' | 'term' | 'inspect' | 'kill';

/** A worker's own limits, drawn when it is created. 0: no limit. */
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
  /** One line, shown to users. */
  readonly summary: string;
  readonly streams: boolean;
}

/** Duration of the steps of a worker's start, in milliseconds. */
export interface StartTimes {
  /** From the start of the process to the SDK's first line; 0 if unknown. */
  readonly interpreterMs: number;
  readonly importMs: number;
  readonly hooksMs: number;
}

export interface Heartbeat {
  readonly sequence: number;
  readonly nextPingAtMs: number;
  /** Pings that were suppressed since the last one was sent, because work proved the worker alive. */
  readonly suppressedPings: number;
  /** Unanswered pings, oldest first. */
  readonly unanswered: readonly { readonly sequence: number; readonly sentAtMs: number }[];
  readonly lastPongAtMs: number;
  readonly roundTripMs: number;
  /** Number of unanswered pings older than the timeout. */
  readonly missed: number;
  readonly busySinceMs: number;
  /** The content of the last pong. */
  readonly reported: PongReport;
  /** The agent's own lag that was subtracted from the ages of pings, in total. */
  readonly forgivenMs: number;
}

/** What a worker reports about itself in a pong. */
export interface PongReport {
  /** Number of running requests. */
  readonly running: number;
  /** Age of the oldest running request. */
  readonly oldestMs: number;
  /** Lag of its asyncio loop; 0 if it has none. */
  readonly loopLagMs: number;
}

export interface Usage {
  readonly nextSampleAtMs: number;
  /** When a sample was last requested. */
  readonly askedAtMs: number;
  readonly samples: number;
  readonly sampledAtMs: number;
  readonly rssBytes: number;
  /** Estimate of the current PSS, from its last reading and the decrease of RSS since; 0 if it was never read. */
  readonly pssBytes: number;
  /** PSS at its last reading, and RSS at that time. */
  readonly readPssBytes: number;
  readonly rssAtPssBytes: number;
  /** 0 if its cgroup has no memory controller. */
  readonly cgroupBytes: number;
  readonly cpuMs: number;
  /** Share of a core over the last sample. */
  readonly cpu: number;
  readonly cpuAdvancedAtMs: number;
  /** State letter of its main process; empty if unknown. */
  readonly state: string;
  /** One bit for each of the last samples, newest in the lowest: 1 if the sample was above the soft limit. */
  readonly overSoftBits: number;
  readonly overHard: boolean;
  /** Memory of its tree at the last samples, oldest first. */
  readonly history: readonly MemoryPoint[];
  /** Memory of its tree at the first sample after it became ready or was adopted; 0: there was none. */
  readonly firstBytes: number;
}

export interface MemoryPoint {
  readonly atMs: number;
  readonly bytes: number;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: string | null;
  /** The kernel killed for lack of memory; absent if it did not, or if that is unknown. */
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
        nextPressureRecycleAtMs: 0,
      },
      blockedStarts: { because: '', nextTryAtMs: 0 },
      leftovers: new Map(),
      intent: null,
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

/** A new worker in its initial state. */
export function newWorker(spec: WorkerSpec & Pick<Worker, 'deadlineMs' | 'warmUp'>): Worker {
  return {
    ...spec,
    phase: 'starting',
    pid: 0,
    spawnedAtMs: 0,
    readyAtMs: 0,
    due: null,
    ending: null,
    stopStage: null,
    killedBecause: '',
    linkLostAtMs: 0,
    attached: false,
    hello: null,
    heartbeat: {
      sequence: 0,
      nextPingAtMs: 0,
      suppressedPings: 0,
      unanswered: [],
      lastPongAtMs: 0,
      roundTripMs: 0,
      missed: 0,
      busySinceMs: 0,
      reported: { running: 0, oldestMs: 0, loopLagMs: 0 },
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
      overSoftBits: 0,
      overHard: false,
      history: [],
      firstBytes: 0,
    },
    exit: null,
  };
}
