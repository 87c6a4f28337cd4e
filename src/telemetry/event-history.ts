import { join } from 'node:path';
import { z } from 'zod';
import type { NodeRecord } from '../domain/action.ts';
import type { HistoryPart, HistoryRequest, StoredEvent } from '../domain/stored-event.ts';
import { cutPrintable } from '../grpc/cut-text.ts';
import { limitConcurrency } from '../os/limit-concurrency.ts';
import type { EventRing, RingPosition } from '../os/storage/event-ring.ts';
import { openEventRing, ringStart } from '../os/storage/event-ring.ts';

/** The events of this node, kept in the state directory over restarts of the agent. docs/internals/events.md describes the files. */
export interface EventHistory {
  /** Never throws and never waits. */
  append(record: NodeRecord): void;
  /**
   * Gives stored events to `take`, oldest first, until `take` returns false (that event is not taken), a bounded amount has been read, or
   * all were given. Null: the request's token is from no earlier part. Rejects if the disk does not answer, or too many callers read.
   */
  read(request: HistoryRequest, take: (event: StoredEvent) => boolean): Promise<HistoryPart | null>;
  /** Events that were dropped, because the disk was full or did not answer. */
  dropped(): number;
  /** Resolves when what was appended before is stored or failed; never, if the disk does not answer. */
  close(): Promise<void>;
}

const text = z.string().default('');

/** An event in the files. Unknown fields are ignored: a later release may add fields. */
const eventInFile = z
  .object({
    at_ms: z.number().min(0),
    kind: z.string(),
    pool: text,
    worker_id: text,
    reason: text,
    message: text,
    exit_code: z.int().nullable().default(null),
    signal: text,
  })
  .transform(
    ({ at_ms: atUnixMs, worker_id: workerId, exit_code: exitCode, ...event }): StoredEvent => ({
      ...event,
      atUnixMs,
      workerId,
      exitCode,
    }),
  );

type EventInFile = z.input<typeof eventInFile>;

const segmentBytes = 2 * 1024 * 1024;
const ringBytes = 16 * 1024 * 1024;
/** A longer message is cut: that of an unplanned exit has the last lines of its worker. */
const messageMaxBytes = 8 * 1024;
/** How much of the files one call reads. */
const readMaxBytes = 4 * 1024 * 1024;
const readersWaiting = 20;

export interface EventHistoryOptions {
  toUnixMs(monotonicMs: number): number;
  onProblem(message: string): void;
}

export function openEventHistory(stateDirectory: string, options: EventHistoryOptions): EventHistory {
  const { toUnixMs, onProblem } = options;
  const ring = openEventRing(join(stateDirectory, 'events'), {
    segmentBytes,
    maxBytes: ringBytes,
    durable: false,
    onProblem,
    gapRecord: (count): EventInFile => ({
      at_ms: Date.now(),
      kind: 'events_dropped',
      message: `${count} events before this one could not be stored: the disk was full or did not answer`,
    }),
  });
  const oneAtATime = limitConcurrency(1, { waitingMax: readersWaiting, refusal: 'too many callers read the history' });
  return {
    append: (record) => ring.append(toFile(record, toUnixMs)),
    read: async (request, take) => {
      const from = positionOf(request.token);
      return from === null ? null : oneAtATime(() => readRing(ring, from, request, take));
    },
    dropped: ring.dropped,
    close: ring.close,
  };
}

function toFile(record: NodeRecord, toUnixMs: (monotonicMs: number) => number): EventInFile {
  const { kind, pool, workerId, reason, exit } = record;
  return {
    at_ms: Math.round(toUnixMs(record.atMs)),
    kind,
    ...(pool === undefined ? {} : { pool }),
    ...(workerId === undefined ? {} : { worker_id: workerId }),
    ...(reason === undefined ? {} : { reason }),
    message: cutPrintable(record.message, messageMaxBytes),
    ...(exit?.code == null ? {} : { exit_code: exit.code }),
    ...(exit?.signal == null ? {} : { signal: exit.signal }),
  };
}

async function readRing(
  ring: EventRing,
  from: RingPosition,
  request: HistoryRequest,
  take: (event: StoredEvent) => boolean,
): Promise<HistoryPart> {
  let position = from;
  let left = readMaxBytes;
  for (;;) {
    const part = await ring.read(position);
    for (const { record, next } of part.records) {
      const event = eventInFile.safeParse(record);
      if (event.success && isWanted(event.data, request) && !take(event.data)) {
        return { token: tokenOf(position), isEnd: false };
      }
      position = next;
    }
    position = part.next;
    left -= part.bytes;
    if (part.isEnd || left <= 0) return { token: tokenOf(position), isEnd: part.isEnd };
  }
}

function isWanted(event: StoredEvent, { sinceMs, untilMs, pool, workerId, kinds }: HistoryRequest): boolean {
  if (event.atUnixMs < sinceMs || (untilMs > 0 && event.atUnixMs >= untilMs)) return false;
  if (pool !== '' && event.pool !== pool) return false;
  if (workerId !== '' && event.workerId !== workerId) return false;
  return kinds.size === 0 || kinds.has(event.kind);
}

function tokenOf({ segment, offset }: RingPosition): string {
  return Buffer.from(`${segment}.${offset}`).toString('base64url');
}

function positionOf(token: string): RingPosition | null {
  if (token === '') return ringStart;
  const [, segment, offset] = /^(\d{1,10})\.(\d{1,10})$/.exec(Buffer.from(token, 'base64url').toString()) ?? [];
  if (segment === undefined) return null;
  return { segment: Number(segment), offset: Number(offset) };
}
