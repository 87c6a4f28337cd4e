import type { NodeConfig } from '../domain/config.ts';
import type { State } from '../domain/state.ts';
import type { Log } from '../telemetry/log.ts';

/** How the descriptors that a process may open are shared out: workers come first, connections get what they leave. */
export interface DescriptorPlan {
  readonly apiConnections: number;
  readonly httpConnections: number;
  readonly linkConnections: number;
  /** How many descriptors the workers would need; 0: they have them. */
  readonly needed: number;
}

/** stdout, stderr and the note of how far they were read (3 files), and the connection that the worker dials. */
export const descriptorsPerWorker = 4;
/** Node itself, sockets that listen, locks, the guardian, the reserve for starts, and files that are read for a moment. */
const ownDescriptors = 96;
/** A worker that dials again may come before its old connection is seen to be closed. */
const redials = 16;
const apiConnectionsMin = 16;
const apiConnectionsMax = 4_096;
const httpConnectionsMin = 4;
const httpConnectionsMax = 64;

export function planDescriptors(limit: number, workers: number): DescriptorPlan {
  const reserved = ownDescriptors + redials + descriptorsPerWorker * workers;
  const room = limit - reserved;
  const least = apiConnectionsMin + httpConnectionsMin;
  return {
    apiConnections: between(apiConnectionsMin, Math.floor(room * 0.8), apiConnectionsMax),
    httpConnections: between(httpConnectionsMin, Math.floor(room * 0.1), httpConnectionsMax),
    linkConnections: workers + redials,
    needed: room < least ? reserved + least : 0,
  };
}

/** As many workers as may live at once. */
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

/** Says so once for each number of workers that the process has too few descriptors for. */
export function createDescriptorCheck(limit: number, log: Pick<Log, 'warn'>): (workers: number) => void {
  let told = 0;
  return (workers) => {
    const { needed } = planDescriptors(limit, workers);
    if (needed > 0 && workers !== told) {
      log.warn(
        `this agent may open ${limit} files, and ${workers} workers need ${needed}: some will not be started; raise the limit (LimitNOFILE= of the unit, ulimit -n)`,
      );
    }
    told = needed > 0 ? workers : 0;
  };
}

/** Pools that were scaled count as they are, and workers of removed pools until they are gone. */
export function workersExpected({ pools, workers }: State): number {
  const kept = [...pools.values()].filter(({ phase }) => phase !== 'removed');
  const wanted = workersWanted(kept.map(({ size, config }) => ({ size, recycle: config.recycle })));
  return Math.max(wanted, workers.size);
}

function between(least: number, value: number, most: number): number {
  return Math.max(least, Math.min(value, most));
}
