import type { Dispatch } from '../dispatch/dispatch.ts';
import type { Evidence, KeptExit } from '../domain/evidence.ts';
import type { Exit } from '../domain/state.ts';
import { evidenceLinesMaxLength } from '../domain/text-bounds.ts';
import { gatherEvidence } from '../os/process/evidence.ts';
import type { ProcessIdentity } from '../os/process/identity.ts';
import { placeOf, stacksOfCrash } from '../os/process/stacks.ts';
import type { Log } from '../telemetry/log.ts';

/** How many requests the evidence lists. */
const requestsMax = 32;

/** The part of a worker's handle that an inspection uses. */
export interface InspectedWorker {
  readonly workerId: string;
  readonly identity: ProcessIdentity | null;
  readonly hello: { readonly writes_stacks: boolean } | null;
  readonly process: { lastLines(): readonly string[] } | null;
  readonly stacksPath: string;
  /** What the worker was doing when it hung or crashed; null if nothing is known yet. */
  evidence: Evidence | null;
  /** Settles when the current inspection is over; null if there was none. */
  inspection: Promise<void> | null;
}

export interface EvidenceOptions {
  readonly dispatch: Pick<Dispatch, 'requestsOf'>;
  readonly log: Pick<Log, 'error'>;
  nowMs(): number;
}

/** Records what a possibly hung worker is doing. Takes less than half a second and never rejects. */
export function inspect(options: EvidenceOptions, worker: InspectedWorker, because: string): Promise<void> {
  const { workerId, identity } = worker;
  if (identity === null) return Promise.resolve();
  // A worker that has not said hello may still write stacks.
  const path = worker.hello?.writes_stacks === false ? null : worker.stacksPath;
  const known = { ...noteOf(options, worker), because };
  const inspection = gatherEvidence(identity, path).then(
    (seen) => {
      worker.evidence = { ...known, lastLines: newestOf(worker.process?.lastLines() ?? []), ...seen };
    },
    (error: unknown) => options.log.error(`no evidence of ${workerId}: ${String(error)}`, { worker_id: workerId }),
  );
  worker.inspection = inspection;
  return inspection;
}

/**
 * Called after the process has ended: waits for a running inspection, and keeps the stacks that a crash left. Returns
 * the place in the application's code; empty if unknown.
 */
export async function finishEvidence(options: EvidenceOptions, worker: InspectedWorker, exit: Exit): Promise<string> {
  await worker.inspection;
  if (worker.evidence === null) {
    // An adopted worker has neither code nor signal. Whether it crashed is shown by the stacks file.
    const stacks = exit.code === null ? stacksOfCrash(worker.stacksPath, exit.signal) : '';
    const because = exit.signal === null ? 'it crashed' : `it crashed with ${exit.signal}`;
    const nothing = { state: '', threads: [], stacksMissing: '' };
    if (stacks !== '') worker.evidence = { ...noteOf(options, worker), because, stacks, ...nothing };
  }
  return worker.evidence === null ? '' : placeOf(worker.evidence.stacks);
}

/**
 * An agent that has ended cannot be asked. So at a shutdown the stacks of the first worker of each pool that had to be
 * killed are logged.
 */
export function logStacksAtShutdown(log: Pick<Log, 'warn'>): (exit: KeptExit) => void {
  const pools = new Set<string>();
  return ({ reason, pool, workerId, evidence }) => {
    if (reason !== 'shutdown' || evidence === null || evidence.stacks === '' || pools.has(pool)) return;
    pools.add(pool);
    log.warn(`${workerId} ${evidence.because}; its stacks:\n${evidence.stacks}`, { pool, worker_id: workerId });
  };
}

function noteOf(
  options: EvidenceOptions,
  { workerId, process }: InspectedWorker,
): Pick<Evidence, 'takenAtMs' | 'requests' | 'lastLines'> {
  return {
    takenAtMs: options.nowMs(),
    requests: options.dispatch.requestsOf(workerId).slice(0, requestsMax),
    lastLines: newestOf(process?.lastLines() ?? []),
  };
}

/** The newest lines that fit; the oldest of them may be cut. */
function newestOf(lines: readonly string[]): string[] {
  const kept: string[] = [];
  let room = evidenceLinesMaxLength;
  for (let index = lines.length - 1; index >= 0 && room > 0; index -= 1) {
    const line = (lines[index] ?? '').slice(0, room);
    kept.unshift(line);
    room -= line.length;
  }
  return kept;
}
