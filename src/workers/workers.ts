import type { Action } from '../domain/action.ts';
import type { PoolConfig } from '../domain/config.ts';
import type { WorkerSpec } from '../domain/state.ts';
import type {
  Authentication,
  HelloClaim,
  LinkRefusal,
  ProvenLink,
  WorkerFrame,
  WorkerHello,
} from '../grpc/worker-link/source.ts';
import type { Survivor } from './adopt.ts';
import { adoptSurvivor } from './adopt.ts';
import { admit, attachWorker, linkClosed, noteEarly, sendLimits } from './attach.ts';
import { authenticate, prove } from './authenticate.ts';
import { inspect } from './evidence.ts';
import type { WorkerHandle, WorkerHandles } from './handle.ts';
import { noteReady } from './ledger-notes.ts';
import type { WorkerParts } from './parts.ts';
import { sample } from './sample.ts';
import { spawn } from './spawn.ts';
import { forgetWorker, inspectThenKill, releaseWorker, sweep, terminate } from './stop.ts';
import type { WarmUpResult } from './warm-up.ts';
import { warmedUp, warmUp } from './warm-up.ts';

type ActionOf<Type extends Action['type']> = Action & { readonly type: Type };

/** The workers of this agent. Nothing here decides or throws: failures are reported as events. */
export interface Workers {
  readonly handles: WorkerHandles;

  // Actions of the domain.
  spawn(pool: PoolConfig, spec: WorkerSpec): void;
  noteReady(workerId: string, readyAtMs: number): void;
  warmUp(action: ActionOf<'warm-up'>): void;
  admit(action: ActionOf<'admit'>): void;
  setPaused(workerId: string, paused: boolean): void;
  ping(workerId: string, sequence: number): void;
  sample(action: ActionOf<'sample'>): void;
  sendDrain(workerId: string): void;
  sendStop(workerId: string, graceMs: number): void;
  terminate(workerId: string): void;
  inspect(workerId: string, because: string): void;
  kill(action: ActionOf<'kill'>): void;
  sweep(action: ActionOf<'sweep'>): void;
  release(action: ActionOf<'release'>): void;
  forget(workerId: string): void;
  /** Sends a changed configuration to the pool's workers. */
  setPool(pool: PoolConfig): void;

  /** Adopts a live worker of an earlier agent. The caller reports it to the domain. */
  adopt(survivor: Survivor): void;

  // Events of the links.
  /** Whether this is the worker's current link. Anything from an earlier link is ignored. */
  isCurrent(workerId: string, link: ProvenLink): boolean;
  linkClosed(workerId: string, link: ProvenLink): void;
  /** Attaches the link of an authenticated hello to its worker. */
  attach(hello: WorkerHello, link: ProvenLink): void;
  /** A frame came. Until dispatch has the worker, the requests that end in the frame are noted here. */
  noteEarly(workerId: string, frame: WorkerFrame): void;
  /** The worker takes no more requests. */
  leaving(workerId: string): void;
  /** Returns true if the result belongs to the worker's warm-up. */
  warmedUp(workerId: string, result: WarmUpResult): boolean;
  /** Decides whether a hello may attach. If so, its token is used up. */
  authenticate(hello: WorkerHello): Authentication;
  /** Checks the beginning of a hello without using up its token. Undefined if it is fine. */
  check(claim: HelloClaim): LinkRefusal | undefined;
}

export function createWorkers(parts: WorkerParts): Workers {
  const handles = new Map<string, WorkerHandle>();
  const { dispatch } = parts;
  const of = (workerId: string): WorkerHandle | undefined => handles.get(workerId);
  return {
    handles,
    spawn: (pool, spec) => void spawn(parts, handles, pool, spec),
    noteReady: (workerId, readyAtMs) => noteReady(parts, of(workerId), readyAtMs),
    warmUp: (action) => warmUp(parts, of(action.workerId), action),
    admit: (action) => void admit(parts, of(action.workerId), action),
    setPaused: (workerId, paused) => {
      const handle = of(workerId);
      if (handle !== undefined) handle.paused = paused;
      if (paused) dispatch.pauseWorker(workerId);
      else dispatch.resumeWorker(workerId);
    },
    ping: (workerId, sequence) => of(workerId)?.link?.ping(sequence),
    sample: (action) => sample(parts, of(action.workerId), action),
    sendDrain: (workerId) => of(workerId)?.link?.drain(),
    sendStop: (workerId, graceMs) => of(workerId)?.link?.stop(graceMs),
    terminate: (workerId) => terminate(of(workerId)),
    inspect: (workerId, because) => {
      const handle = of(workerId);
      if (handle !== undefined) void inspect(parts, handle, because);
    },
    kill: (action) => {
      if (action.inspectBecause !== '') inspectThenKill(parts, of(action.workerId), action);
      else sweep(parts, of(action.workerId), action);
    },
    sweep: (action) => sweep(parts, of(action.workerId), action),
    release: (action) => releaseWorker(dispatch, of(action.workerId), action),
    forget: (workerId) => forgetWorker(parts, handles, workerId),
    setPool: (pool) => sendLimits(parts, handles, pool),
    adopt: (survivor) => adoptSurvivor(parts, handles, survivor),
    isCurrent: (workerId, link) => of(workerId)?.link === link,
    linkClosed: (workerId, link) => linkClosed(parts, of(workerId), link),
    attach: (hello, link) => attachWorker(parts, handles, hello, link),
    noteEarly: (workerId, frame) => noteEarly(of(workerId), frame),
    leaving: (workerId) => {
      const handle = of(workerId);
      if (handle !== undefined) handle.leaving = true;
      dispatch.onLeaving(workerId);
    },
    warmedUp: (workerId, result) => warmedUp(parts, of(workerId), result),
    authenticate: (hello) => authenticate(handles, hello, parts),
    check: (claim) => {
      const proof = prove(handles, claim);
      return proof.ok ? undefined : proof;
    },
  };
}
