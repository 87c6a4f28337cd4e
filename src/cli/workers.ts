import { withAgent } from './connect.ts';
import { shortLine } from './excerpt.ts';
import { listWorkers } from './lists.ts';
import { print, printJson } from './print.ts';
import { progressWords } from './progress.ts';
import { age, enumLabel, mebibytes, table } from './table.ts';
import type { WorkerView } from './views.ts';

/** Longer progress messages are cut to this length. */
const progressMaxLength = 40;

export interface WorkersOptions {
  readonly socket?: string;
  readonly json?: boolean;
  readonly pool?: string;
}

export async function workers(options: WorkersOptions): Promise<void> {
  const found = await withAgent(options.socket, (agent) => listWorkers(agent, options.pool));
  if (options.json === true) return printJson(found);
  const nowMs = Date.now();
  print(
    table(
      headings,
      found.map((worker) => row(worker, nowMs)),
    ),
  );
}

const headings = [
  'WORKER',
  'GEN',
  'PID',
  'STATE',
  'HEALTH',
  'REASON',
  'READY FOR',
  'IN FLIGHT',
  'DONE',
  'FAILED',
  'PING',
  'MEMORY',
  'CPU',
  'PROGRESS',
];

function row(worker: WorkerView, nowMs: number): (string | number)[] {
  return [
    worker.worker_id,
    worker.generation,
    worker.pid,
    enumLabel(worker.state),
    enumLabel(worker.health),
    worker.reason || '-',
    age(worker.ready_at_ms, nowMs),
    worker.in_flight,
    worker.requests_completed,
    worker.requests_failed,
    worker.ping_round_trip_ms === 0 ? '-' : `${worker.ping_round_trip_ms.toFixed(1)}ms`,
    worker.memory_source === '' ? '-' : `${mebibytes(worker.memory_bytes)} ${worker.memory_source}`,
    `${Math.round(worker.cpu * 100)}%`,
    progressOf(worker),
  ];
}

function progressOf({ progress, progress_message }: WorkerView): string {
  return shortLine(progressWords(progress, progress_message), progressMaxLength) || '-';
}
