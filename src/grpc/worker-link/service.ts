import type { ServerDuplexStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import protobuf from 'protobufjs';
import type { RequestLink, Resumed } from '../../dispatch/worker.ts';
import { readerOf } from '../incoming.ts';
import type { MemoryBudget } from '../memory-budget.ts';
import { services, UnreadableMessage } from '../proto.ts';
import type { ApiServer } from '../server.ts';
import { checkHello, mendFrame } from './sanitize.ts';
import type { LinkWriter } from './writer.ts';
import { createLinkWriters } from './writer.ts';

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
  readonly writes_stacks: boolean;
  readonly interpreter_ms: number;
  readonly import_ms: number;
  readonly hooks_ms: number;
  /** Null: it dials for the first time. */
  readonly resumed: (Resumed & { readonly away_ms: number }) | null;
}

/** WorkerFrame of link.proto. */
export interface WorkerFrame {
  readonly hello: WorkerHello | null;
  readonly pong: {
    readonly sequence: number;
    readonly in_flight: number;
    readonly oldest_request_ms: number;
    readonly loop_lag_ms: number;
  } | null;
  readonly leaving: boolean;
  readonly leaving_reason: string;
  readonly replayed: readonly number[];
  readonly returned: readonly number[];
  readonly chunks: readonly { readonly id: number; readonly payload: Buffer; content_type: string }[];
  readonly results: readonly LinkResult[];
  readonly progress: readonly { readonly id: number; readonly fraction: number; readonly message: string }[];
}

interface LinkResult {
  readonly id: number;
  readonly payload: Buffer;
  content_type: string;
  readonly error: { code: number; type: string; message: string; traceback: string } | null;
  readonly ran_us: number;
}

/** The line to a worker that proved itself. */
export interface AttachedWorker extends RequestLink {
  ping(sequence: number): void;
  drain(): void;
  /** They hold from now on, in place of those of the welcome. */
  limit(limits: LinkLimits): void;
  stop(graceMs: number): void;
  close(): void;
}

/** Limits of link.proto. */
export interface LinkLimits {
  readonly orphan_timeout_ms: number;
  readonly drain_timeout_ms: number;
  readonly keep_results: number;
  readonly keep_bytes: number;
  readonly keep_ms: number;
  readonly tasks: number;
}

/** Welcome of link.proto, but for the protocol. */
export interface WelcomeLimits extends LinkLimits {
  readonly concurrency: number;
  readonly payload_max_bytes: number;
}

/** Why a hello is refused: the label `reason` of pitwarden_link_refusals_total. */
export const refusalReasons = ['protocol', 'unknown_worker', 'wrong_token', 'already_attached'] as const;
export type RefusalReason = (typeof refusalReasons)[number];

export interface LinkRefusal {
  readonly reason: RefusalReason;
  readonly message: string;
  /** Set when the hello named a worker of this agent. */
  readonly worker?: { readonly id: string; readonly pool: string };
}

/** What a worker proves itself with. */
export type HelloClaim = Pick<WorkerHello, 'worker_id' | 'token'>;

export type Authentication =
  | { readonly ok: true; readonly welcome: WelcomeLimits }
  | ({ readonly ok: false } & LinkRefusal);

export interface WorkerLinkSource {
  /** Whether a hello may attach. If it may, its token is used up. */
  authenticate(hello: WorkerHello): Authentication;
  /** What is wrong with a hello of which no more has come; its token is not used up. Undefined: it is a worker's of ours. */
  check(claim: HelloClaim): LinkRefusal | undefined;
  attached(hello: WorkerHello, link: AttachedWorker): void;
  frame(workerId: string, frame: WorkerFrame, link: AttachedWorker): void;
  /** Requests that were cancelled before they were written: the worker will never know of them. */
  unsent(workerId: string, linkIds: readonly number[], link: AttachedWorker): void;
  closed(workerId: string, link: AttachedWorker): void;
  refused(refusal: LinkRefusal): void;
}

const protocol = 1;
/** A connection that says nothing is no worker of ours. */
const helloTimeoutMs = 10_000;
/** Of the frame of somebody who has not proven itself, unless its beginning has the token of a worker of ours. */
const unprovenMaxBytes = 1024 * 1024;
/** The hello of a worker that keeps 100,000 results has some 20 MiB. */
const helloMaxBytes = 64 * 1024 * 1024;

/**
 * A worker that dials again may be quicker than the news that its link before has ended. A hello waits so long for that; if
 * the link still lives then, somebody else holds it or sends the hello.
 */
const earlierLinkMs = 1_000;
const lookAgainMs = 20;
/** Sent to a worker that is refused. All but ALREADY_EXISTS make it leave at once. */
const statusOf: Readonly<Record<RefusalReason, status>> = {
  protocol: status.INVALID_ARGUMENT,
  unknown_worker: status.UNAUTHENTICATED,
  wrong_token: status.UNAUTHENTICATED,
  already_attached: status.ALREADY_EXISTS,
};

/** Field numbers of link.proto, with the wire type of a text or message. */
const tag = { hello: (1 << 3) | 2, workerId: (2 << 3) | 2, token: (3 << 3) | 2 } as const;

type Call = ServerDuplexStream<WorkerFrame | UnreadableMessage, object>;

/**
 * Serves WorkerLink: a hello makes an attached worker, its frames are passed on until the stream ends. What is being written
 * to workers counts towards `budget`.
 */
export function addWorkerLink(api: ApiServer, source: WorkerLinkSource, budget: MemoryBudget): void {
  const large = new Set<string>();
  const createWriter = createLinkWriters(budget);
  api.server.addService(services.WorkerLink, { Attach: (call: Call) => attach(source, call, large, createWriter) });
}

/** `large`: the workers whose large hellos are arriving; each may send one at a time. */
function attach(
  source: WorkerLinkSource,
  call: Call,
  large: Set<string>,
  createWriter: ReturnType<typeof createLinkWriters>,
): void {
  let workerId = '';
  let link: LinkWriter | undefined;
  let hello: WorkerHello | undefined;
  let over = false;
  const refuse = (code: status, refusal: LinkRefusal): void => {
    source.refused(refusal);
    call.emit('error', { code, details: refusal.message });
  };
  const refuseProtocol = (message: string, code: status = statusOf.protocol): void =>
    refuse(code, { reason: 'protocol', message });
  let timer = setTimeout(
    () => refuseProtocol('expected a hello, got none in time', status.DEADLINE_EXCEEDED),
    helloTimeoutMs,
  );
  const greet = (checked: WorkerHello, waitUntilMs: number): void => {
    if (over) return;
    const known = source.authenticate(checked);
    if (!known.ok && known.reason === 'already_attached' && performance.now() < waitUntilMs) {
      timer = setTimeout(() => greet(checked, waitUntilMs), lookAgainMs);
      return;
    }
    if (!known.ok) return refuse(statusOf[known.reason], known);
    const problem = checkHello(checked);
    if (problem !== undefined) return refuseProtocol(problem);
    workerId = checked.worker_id;
    if (reader !== undefined) {
      reader.maxBytes = frameMost;
      reader.unproven = null;
    }
    const writer = createWriter(call, (linkIds) => source.unsent(workerId, linkIds, writer));
    link = writer;
    call.write({ welcome: { protocol, ...known.welcome } });
    source.attached(checked, link);
  };
  const reader = readerOf(call);
  const frameMost = reader?.maxBytes ?? 0;
  let largeWorkerId = '';
  const admit = (beginning: Buffer): boolean => {
    const claim = claimOf(beginning);
    if (claim === undefined) {
      refuseProtocol(
        `expected at most ${unprovenMaxBytes} bytes in a first frame without a token at its beginning, got more`,
      );
      return false;
    }
    const refusal = source.check(claim);
    if (refusal !== undefined) {
      refuse(statusOf[refusal.reason], refusal);
      return false;
    }
    if (large.has(claim.worker_id)) {
      refuse(statusOf.already_attached, { reason: 'already_attached', message: 'a second large hello was refused' });
      return false;
    }
    largeWorkerId = claim.worker_id;
    large.add(largeWorkerId);
    return true;
  };
  if (reader !== undefined) {
    reader.maxBytes = Math.min(frameMost, helloMaxBytes);
    reader.unproven = { maxBytes: unprovenMaxBytes, admit };
  }
  call.on('data', (frame: WorkerFrame | UnreadableMessage) => {
    reader?.messageHandled();
    // Frames that were on their way when it was refused or ended.
    if (over) return;
    if (frame instanceof UnreadableMessage) return refuseProtocol(frame.problem);
    if (link !== undefined) {
      mendFrame(frame);
      return source.frame(workerId, frame, link);
    }
    clearTimeout(timer);
    if (hello !== undefined) return refuseProtocol('expected no frame before the welcome');
    const checked = check(frame.hello);
    if (!checked.ok) return refuseProtocol(checked.message, checked.code);
    hello = checked.hello;
    greet(hello, performance.now() + earlierLinkMs);
  });
  const end = (): void => {
    clearTimeout(timer);
    if (over) return;
    over = true;
    if (largeWorkerId !== '') large.delete(largeWorkerId);
    if (link !== undefined) {
      link.over();
      source.closed(workerId, link);
    }
    if (!call.destroyed) call.end();
  };
  call.on('end', end);
  call.on('cancelled', end);
  call.on('close', end);
  call.on('error', end);
}

/** `hello`, `worker_id` and `token` of link.proto stand at the beginning of a frame, whose rest has not come. */
function claimOf(beginning: Buffer): HelloClaim | undefined {
  const reader = protobuf.Reader.create(beginning);
  let workerId: string | undefined;
  try {
    if (reader.uint32() !== tag.hello) return undefined;
    reader.uint32();
    for (;;) {
      const field = reader.uint32();
      if (field === tag.workerId) workerId = reader.string();
      else if (field === tag.token)
        return workerId === undefined ? undefined : { worker_id: workerId, token: reader.string() };
      else reader.skipType(field & 7);
    }
  } catch {
    return undefined;
  }
}

type Checked =
  | { readonly ok: true; readonly hello: WorkerHello }
  | { readonly ok: false; readonly code: status; readonly message: string };

function check(hello: WorkerHello | null): Checked {
  const refused = (code: status, message: string): Checked => ({ ok: false, code, message });
  if (hello === null) return refused(status.INVALID_ARGUMENT, 'expected a hello as the first frame');
  if (hello.protocol !== protocol) {
    return refused(
      status.FAILED_PRECONDITION,
      `protocol: expected ${protocol}, got ${hello.protocol}: upgrade the older side`,
    );
  }
  return { ok: true, hello };
}
