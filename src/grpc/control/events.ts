import { status } from '@grpc/grpc-js';
import { recordKinds } from '../../domain/action.ts';
import type { HistoryPart, StoredEvent } from '../../domain/stored-event.ts';
import { pageBytes } from './paging.ts';
import { Refusal, text } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { storedEventView } from './view.ts';
import { boundTexts, bytesAtMost } from './view-bounds.ts';

/** Answers ListEvents: a page of the history on disk. */
export async function listEvents(source: ControlSource, request: ControlRequest): Promise<object> {
  const size = Number(request['page_size'] ?? 0);
  const token = text(request, 'page_token');
  const wanted = {
    sinceMs: Number(request['since_ms'] ?? 0),
    untilMs: Number(request['until_ms'] ?? 0),
    pool: text(request, 'pool'),
    workerId: text(request, 'worker_id'),
    kinds: kindsOf(request),
    token,
  };
  const events: object[] = [];
  let bytes = 0;
  const take = (event: StoredEvent): boolean => {
    const view = boundTexts(storedEventView(event));
    const more = bytesAtMost(view);
    const isFull = size > 0 ? events.length >= size : false;
    if (isFull || (events.length > 0 && bytes + more > pageBytes)) return false;
    events.push(view);
    bytes += more;
    return true;
  };
  const part = await source.history(wanted, take).catch((error: Error): HistoryPart => {
    throw new Refusal(status.UNAVAILABLE, `the history of events cannot be read now: ${error.message}`);
  });
  if (part === null) {
    const expected = 'expected a next_page_token or resume_token of ListEvents';
    throw new Refusal(status.INVALID_ARGUMENT, `page_token: ${expected}, got ${JSON.stringify(token.slice(0, 80))}`);
  }
  return { events, next_page_token: part.isEnd ? '' : part.token, resume_token: part.token };
}

function kindsOf(request: ControlRequest): ReadonlySet<string> {
  const kinds = new Set((request['kinds'] as readonly string[] | undefined) ?? []);
  const unknown = [...kinds].find((kind) => !(recordKinds as readonly string[]).includes(kind));
  if (unknown === undefined) return kinds;
  const got = JSON.stringify(unknown.slice(0, 80));
  throw new Refusal(
    status.INVALID_ARGUMENT,
    `kinds: expected kinds of events (NodeEvent.kind in control.proto), got ${got}`,
  );
}
