import type { ServerDuplexStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import type { LinkRequest, RequestLink } from '../dispatch/worker.ts';
import { services } from './proto.ts';
import type { ApiServer } from './server.ts';

/** Hello of link.proto. */
export interface WorkerHello {
  readonly protocol: number;
  readonly worker_id: string;
  readonly token: string;
  readonly pid: number;
  readonly commands: readonly {
    readonly name: string;
    readonly streams: boolean;
    readonly summary: string;
    readonly is_async: boolean;
  }[];
  readonly sdk_version: string;
  readonly python_version: string;
  readonly marks_begun: boolean;
}

/** WorkerFrame of link.proto. */
export interface WorkerFrame {
  readonly hello: WorkerHello | null;
  readonly pong: { readonly sequence: number } | null;
  readonly leaving: boolean;
  readonly returned: readonly number[];
  readonly chunks: readonly { readonly id: number; readonly payload: Buffer; readonly content_type: string }[];
  readonly results: readonly LinkResult[];
  readonly progress: readonly { readonly id: number }[];
}

interface LinkResult {
  readonly id: number;
  readonly payload: Buffer;
  readonly content_type: string;
  readonly error: { code: number; type: string; message: string; traceback: string } | null;
  readonly ran_us: number;
}

/** The line to a worker that proved itself. */
export interface AttachedWorker extends RequestLink {
  ping(sequence: number): void;
  drain(): void;
  stop(graceMs: number): void;
  close(): void;
}

export interface WorkerLinkSource {
  /** Whether a hello may attach. */
  authenticate(hello: WorkerHello): { ok: true; concurrency: number } | { ok: false; message: string };
  attached(hello: WorkerHello, link: AttachedWorker): void;
  frame(workerId: string, frame: WorkerFrame): void;
  closed(workerId: string): void;
  refused(message: string): void;
}

const protocol = 1;
/** A connection that says nothing is no worker of ours. */
const helloTimeoutMs = 10_000;
const commandsMax = 1_000;
/** A frame's payloads stay below this, so that a ping waits for little; one larger payload goes alone. */
const frameMaxBytes = 1024 * 1024;

type Call = ServerDuplexStream<WorkerFrame, object>;

/** Serves WorkerLink: a hello makes an attached worker, its frames are passed on until the stream ends. */
export function addWorkerLink(api: ApiServer, source: WorkerLinkSource): void {
  api.server.addService(services.WorkerLink, { Attach: (call: Call) => attach(source, call) });
}

function attach(source: WorkerLinkSource, call: Call): void {
  let workerId = '';
  const refuse = (code: status, message: string): void => {
    source.refused(message);
    call.emit('error', { code, details: message });
  };
  const tooLate = setTimeout(
    () => refuse(status.DEADLINE_EXCEEDED, 'expected a hello, got none in time'),
    helloTimeoutMs,
  );
  call.on('data', (frame: WorkerFrame) => {
    if (workerId !== '') return source.frame(workerId, frame);
    clearTimeout(tooLate);
    const checked = check(source, frame.hello);
    if (!checked.ok) return refuse(checked.code, checked.message);
    workerId = checked.hello.worker_id;
    const link = createLink(call);
    call.write({ welcome: { protocol, concurrency: checked.concurrency } });
    source.attached(checked.hello, link);
  });
  let over = false;
  const end = (): void => {
    clearTimeout(tooLate);
    if (over) return;
    over = true;
    if (workerId !== '') source.closed(workerId);
    if (!call.destroyed) call.end();
  };
  call.on('end', end);
  call.on('cancelled', end);
  call.on('close', end);
  call.on('error', end);
}

type Checked =
  | { readonly ok: true; readonly hello: WorkerHello; readonly concurrency: number }
  | { readonly ok: false; readonly code: status; readonly message: string };

function check(source: WorkerLinkSource, hello: WorkerHello | null): Checked {
  const refused = (code: status, message: string): Checked => ({ ok: false, code, message });
  if (hello === null) return refused(status.INVALID_ARGUMENT, 'expected a hello as the first frame');
  if (hello.protocol !== protocol) {
    return refused(
      status.FAILED_PRECONDITION,
      `protocol: expected ${protocol}, got ${hello.protocol}: upgrade the older side`,
    );
  }
  if (hello.commands.length > commandsMax) {
    const got = hello.commands.length;
    return refused(status.INVALID_ARGUMENT, `commands: expected at most ${commandsMax}, got ${got}`);
  }
  const known = source.authenticate(hello);
  if (!known.ok) return refused(status.UNAUTHENTICATED, known.message);
  return { ok: true, hello, concurrency: known.concurrency };
}

/** Gathers what one turn of the event loop has to say into one frame, and waits where the worker reads slowly. */
function createLink(call: Call): AttachedWorker {
  let requests: LinkRequest[] = [];
  let cancels: number[] = [];
  let ping = 0;
  let drain = false;
  let recall = false;
  let stopGraceMs: number | null = null;
  let scheduled = false;
  let blocked = false;

  const flush = (): void => {
    scheduled = false;
    if (call.destroyed || call.cancelled) return;
    // A full line takes small words still, but no payloads; a cancel must not overtake its request.
    while (ping > 0 || drain || recall || stopGraceMs !== null || (!blocked && requests.length + cancels.length > 0)) {
      const frame: Record<string, unknown> = {};
      if (!blocked) {
        const batch = takeBatch(requests);
        frame['requests'] = batch;
        requests = batch === requests ? [] : requests.slice(batch.length);
        if (requests.length === 0) {
          frame['cancels'] = cancels;
          cancels = [];
        }
      }
      if (ping > 0) frame['ping'] = { sequence: ping };
      if (drain) frame['drain'] = {};
      if (recall) frame['recall'] = {};
      if (stopGraceMs !== null) frame['stop'] = { grace_ms: stopGraceMs };
      ping = 0;
      drain = false;
      recall = false;
      stopGraceMs = null;
      if (!call.write(frame)) blocked = true;
    }
  };
  const schedule = (): void => {
    if (scheduled) return;
    scheduled = true;
    setImmediate(flush);
  };
  call.on('drain', () => {
    blocked = false;
    schedule();
  });
  return {
    request: (request) => {
      requests.push(request);
      schedule();
    },
    cancel: (linkId) => {
      cancels.push(linkId);
      schedule();
    },
    recall: () => {
      recall = true;
      schedule();
    },
    unwritten: () => new Set(requests.map((request) => request.id)),
    ping: (sequence) => {
      ping = sequence;
      schedule();
    },
    drain: () => {
      drain = true;
      schedule();
    },
    stop: (graceMs) => {
      stopGraceMs = Math.round(graceMs);
      schedule();
    },
    close: () => {
      if (!call.destroyed) call.end();
    },
  };
}

/** As many as one frame may hold, at least one; the same array when that is all of them. */
function takeBatch(requests: LinkRequest[]): LinkRequest[] {
  let bytes = 0;
  for (const [index, request] of requests.entries()) {
    bytes += request.payload.length;
    if (bytes > frameMaxBytes && index > 0) return requests.slice(0, index);
  }
  return requests;
}
