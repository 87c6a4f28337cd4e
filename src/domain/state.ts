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
}

export interface Pool {
  readonly name: string;
  readonly config: PoolConfig;
  readonly fingerprint: string;
  /** `removed`: no longer in the config; it goes when its last worker has gone. */
  readonly phase: 'running' | 'draining' | 'removed';
  readonly size: number;
  /** The places to keep filled: as many as `size`. */
  readonly slots: ReadonlyMap<number, Slot>;
  /** Newest generation that each place ever had; a place that was taken away may come back. */
  readonly generations: ReadonlyMap<number, number>;
  /** Whether dispatch was last told to take requests. */
  readonly open: boolean;
  /** When it was removed or the node began to stop; 0: neither. */
  readonly closingSinceMs: number;
  readonly lastFailure: { readonly message: string; readonly atMs: number } | null;
}

export interface Slot {
  readonly index: number;
  /** Unplanned ends in a row. */
  readonly failures: number;
  readonly nextStartAtMs: number;
}

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
  readonly phase: Phase;
  /** 0 until it is known to have been spawned. */
  readonly pid: number;
  readonly startedAtMs: number;
  /** 0 until it is known to have been spawned. */
  readonly spawnedAtMs: number;
  /** 0 until ready. */
  readonly readyAtMs: number;
  readonly limits: Limits;
  /** A planned replacement it waits for; it goes on serving meanwhile. */
  readonly due: { readonly reason: Reason; readonly atMs: number } | null;
  /** Why it is being ended or has ended. The first reason stays. */
  readonly ending: Reason | null;
  /** Start timeout, drain timeout, or the next rung of the ladder; 0: none. */
  readonly deadlineMs: number;
  readonly rung: Rung | null;
  readonly linkLostAtMs: number;
  readonly attached: boolean;
  readonly hello: Hello | null;
  readonly heartbeat: Heartbeat;
  readonly health: Health;
  readonly usage: Usage;
  readonly exit: Exit | null;
}

/** Rungs of the ladder below a drain, mildest first. */
export type Rung = 'stop' | 'term' | 'kill';

/** A worker's own limits, drawn at birth. 0: no limit. */
export interface Limits {
  readonly maxAgeMs: number;
  readonly maxRequests: number;
}

export interface Hello {
  readonly commands: readonly string[];
  readonly sdkVersion: string;
  readonly pythonVersion: string;
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
}

export interface Usage {
  readonly nextSampleAtMs: number;
  readonly samples: number;
  readonly sampledAtMs: number;
  readonly rssBytes: number;
  readonly pssBytes: number;
  /** RSS when PSS was last read. */
  readonly rssAtPssBytes: number;
  readonly cpuMs: number;
  /** Share of a core over the last sample. */
  readonly cpu: number;
  readonly cpuAdvancedAtMs: number;
  /** Samples in a row above the soft limit. */
  readonly samplesOverSoft: number;
  readonly overHard: boolean;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: string | null;
}

export function initialState(): State {
  return {
    node: { phase: 'running', stoppingSinceMs: 0, configError: '' },
    pools: new Map(),
    workers: new Map(),
    revision: 0,
    wakeAtMs: Number.POSITIVE_INFINITY,
  };
}
