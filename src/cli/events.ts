import { setTimeout as delay } from 'node:timers/promises';
import { parseDuration } from '../config/units.ts';
import { printableEntry } from '../domain/printable.ts';
import type { AgentConnection } from './connect.ts';
import { ConnectionLost, withAgent } from './connect.ts';
import { CliError, exitCode } from './exit.ts';
import { print, printJson } from './print.ts';
import type { EventView } from './views.ts';

export interface EventsOptions {
  readonly socket?: string;
  readonly json?: boolean;
  readonly pool?: string;
  readonly worker?: string;
  readonly kind?: readonly string[];
  readonly since?: string;
  readonly follow?: boolean;
}

interface EventsPage {
  readonly events: readonly EventView[];
  readonly next_page_token: string;
  readonly resume_token: string;
}

/** How often the history is asked for what has happened since. */
const followEveryMs = 500;

/**
 * Prints events, one per line: those since a time, from the history on disk, or those from now on until interrupted. With `follow`
 * both, also while one agent ends and another takes over.
 */
export async function events(options: EventsOptions): Promise<void> {
  const { since, follow = false } = options;
  if (since === undefined) return withAgent(options.socket, (agent) => watchEvents(agent, options));
  const request = {
    since_ms: sinceMs(since),
    pool: options.pool ?? '',
    worker_id: options.worker ?? '',
    kinds: options.kind ?? [],
  };
  const place = { token: '' };
  const printAll = (agent: AgentConnection): Promise<void> => printPages(agent, request, place, options);
  await withAgent(options.socket, printAll);
  while (follow) {
    await delay(followEveryMs);
    await withAgent(options.socket, printAll).catch((error: unknown) => {
      if (!isAway(error)) throw error;
    });
  }
}

/** No agent answers now; another one may soon. */
function isAway(error: unknown): boolean {
  return error instanceof ConnectionLost || (error instanceof CliError && error.code === exitCode.noAgent);
}

async function watchEvents(agent: AgentConnection, options: EventsOptions): Promise<void> {
  const watched = agent.stream<{ event?: EventView | null }>('Control', 'Watch', { pool: options.pool ?? '' });
  for await (const { event } of watched) {
    if (event === undefined || event === null) continue;
    if (options.worker !== undefined && event.worker_id !== options.worker) continue;
    if (options.kind !== undefined && !options.kind.includes(event.kind)) continue;
    printEvent(event, options);
  }
}

/** Prints what is stored behind a place, page by page, and moves the place on. */
async function printPages(
  agent: AgentConnection,
  request: object,
  place: { token: string },
  options: EventsOptions,
): Promise<void> {
  for (;;) {
    const asked = { ...request, page_token: place.token };
    const page = await agent.call<EventsPage>('Control', 'ListEvents', asked);
    for (const event of page.events) printEvent(event, options);
    place.token = page.resume_token;
    if (page.next_page_token === '') return;
  }
}

function printEvent(event: EventView, { json, since }: EventsOptions): void {
  if (json === true) return printJson(event, 0);
  const at = new Date(event.at_ms).toISOString();
  const subject = event.worker_id || event.pool || 'node';
  const reason = event.reason === '' ? '' : ` (${event.reason})`;
  // What happens now needs no date.
  const time = since === undefined ? at.slice(11, 23) : at.slice(0, 23);
  print(printableEntry(`${time} ${event.kind} ${subject}${reason}: ${event.message}`));
}

/** Unix ms of a time, or of a duration before now. */
function sinceMs(since: string): number {
  const duration = parseDuration(since);
  if (duration.ok) return Math.max(0, Date.now() - duration.value);
  const time = /^\d{4}-\d\d-\d\d/.test(since) ? Date.parse(since) : Number.NaN;
  if (time >= 0) return time;
  const expected = 'expected a duration such as 30m or 24h, or a time such as 2026-05-01T12:00:00Z';
  throw new CliError(exitCode.usage, `--since: ${expected}, got "${since}"`);
}
