import { printableEntry } from '../domain/printable.ts';
import { withAgent } from './connect.ts';
import { print, printJson } from './print.ts';
import type { EventView } from './views.ts';

export interface EventsOptions {
  readonly socket?: string;
  readonly json?: boolean;
  readonly pool?: string;
}

/** Prints what happens from now on, one line per event, until interrupted. */
export async function events(options: EventsOptions): Promise<void> {
  await withAgent(options.socket, async (agent) => {
    const watched = agent.stream<{ event?: EventView | null }>('Control', 'Watch', { pool: options.pool ?? '' });
    for await (const { event } of watched) {
      if (event === undefined || event === null) continue;
      if (options.json === true) printJson(event, 0);
      else print(printableEntry(line(event)));
    }
  });
}

function line(event: EventView): string {
  const at = new Date(event.at_ms).toISOString().slice(11, 23);
  const subject = event.worker_id || event.pool || 'node';
  const reason = event.reason === '' ? '' : ` (${event.reason})`;
  return `${at} ${event.kind} ${subject}${reason}: ${event.message}`;
}
