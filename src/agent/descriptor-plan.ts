import type { NodeConfig } from '../domain/config.ts';
import type { State } from '../domain/state.ts';
import type { Log } from '../telemetry/log.ts';

/** How the process's descriptors are distributed: workers come first, connections share the rest. */
export interface DescriptorPlan {
  readonly apiConnections: number;
  /** At `control.sock`. Callers who use all of `apiConnections` leave them free. */
  readonly controlConnections: number;
  readonly httpConnections: number;
  readonly linkConnections: number;
  /** How many descriptors all workers would need; 0 if there are enough. */
  readonly needed: number;
}

/** Three files (stdout, stderr, read position) and the connection that the worker dials. */
export const descriptorsPerWorker = 4;
/** Node itself, listening sockets, locks, the guardian, the spare descriptors, and files that are briefly open. */
const ownDescriptors = 96;
/** A worker may dial again before its old connection is seen to be closed. */
const redials = 16;
const apiConnectionsMin = 16;
const apiConnectionsMax = 4_096;
const controlConnectionsMin = 4;
const controlConnectionsMax = 64;
const httpConnectionsMin = 4;
const httpConnectionsMax = 64;

export function planDescriptors(limit: number, workers: number): DescriptorPlan {
  const reserved = ownDescriptors + redials + descriptorsPerWorker * workers;
  const room = limit - reserved;
  const least = apiConnectionsMin + controlConnectionsMin + httpConnectionsMin;
  return {
    apiConnections: between(apiConnectionsMin, Math.floor(room * 0.7), apiConnectionsMax),
    controlConnections: between(controlConnectionsMin, Math.floor(room * 0.1), controlConnectionsMax),
    httpConnections: between(httpConnectionsMin, Math.floor(room * 0.1), httpConnectionsMax),
    linkConnections: workers + redials,
    needed: room < least ? reserved + least : 0,
  };
}

/** How many workers may live at the same time. */
export function workersWanted(
  pools: Iterable<{ readonly size: number; readonly recycle: { maxSurge: number } }>,
): number {
  let workers = 0;
  for (const { size, recycle } of pools) workers += size + recycle.maxSurge;
  return workers;
}

export function workersConfigured({ pools }: NodeConfig): number {
  return workersWanted(pools.values());
}

/** Warns once for each number of workers that needs more descriptors than the process may open. */
export function createDescriptorCheck(limit: number, log: Pick<Log, 'warn'>): (workers: number) => void {
  let warnedWorkers = 0;
  return (workers) => {
    const { needed } = planDescriptors(limit, workers);
    if (needed > 0 && workers !== warnedWorkers) {
      log.warn(
        `this agent may open ${limit} files, and ${workers} workers need ${needed}: some will not be started; raise the limit (LimitNOFILE= of the unit, ulimit -n)`,
      );
    }
    warnedWorkers = needed > 0 ? workers : 0;
  };
}

/** Scaled pools count with their current size, and workers of removed pools until they are gone. */
export function workersExpected({ pools, workers }: State): number {
  const kept = [...pools.values()].filter(({ phase }) => phase !== 'removed');
  const wanted = workersWanted(kept.map(({ size, config }) => ({ size, recycle: config.recycle })));
  return Math.max(wanted, workers.size);
}

function between(least: number, value: number, most: number): number {
  return Math.max(least, Math.min(value, most));
}
