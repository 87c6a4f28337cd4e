import { withoutLastLines } from '../domain/why-nothing-starts.ts';
import { withAgent } from './connect.ts';
import { listExits } from './lists.ts';
import { print, printJson } from './print.ts';
import { age, mebibytes, table } from './table.ts';
import type { ExitView } from './views.ts';

export interface ExitsOptions {
  readonly socket?: string;
  readonly json?: boolean;
  readonly pool?: string;
}

/** Lists how workers ended, newest first. */
export async function exits(options: ExitsOptions): Promise<void> {
  const found = await withAgent(options.socket, (agent) => listExits(agent, options.pool));
  if (options.json === true) return printJson(found);
  print(
    table(['EXITED', 'WORKER', 'GEN', 'PID', 'REASON', 'LIVED', 'DONE', 'FAILED', 'MEMORY', 'HOW'], found.map(row)),
  );
}

function row(exit: ExitView): (string | number)[] {
  return [
    new Date(exit.exited_at_ms).toISOString().slice(0, 19),
    exit.worker_id,
    exit.generation,
    exit.pid === 0 ? '-' : exit.pid,
    exit.reason,
    age(exit.started_at_ms, exit.exited_at_ms),
    exit.requests_completed,
    exit.requests_failed,
    mebibytes(exit.memory_bytes),
    withoutLastLines(exit.message),
  ];
}
