import type { ServerWritableStream } from '@grpc/grpc-js';
import type { Request, RequestError, ResponseSink } from '../../dispatch/request.ts';
import { code } from '../../dispatch/request.ts';
import type { ReportedProgress } from '../../domain/evidence.ts';
import { compact } from '../compact.ts';
import type { Connection } from '../connection.ts';
import { connectionOf } from '../connection.ts';
import type { UnreadableMessage } from '../proto.ts';
import { toStatus } from '../status.ts';
import { onCallEnd } from './call-end.ts';
import type { Unread } from './flow-control.ts';
import { createUnread, overheadBytes, refuseAnswer } from './flow-control.ts';
import type { ProgressRelay } from './progress-relay.ts';
import { createProgressRelay } from './progress-relay.ts';
import type { ExecuteMessage, ExecutionSource } from './source.ts';
import type { CheckedSpec } from './validate.ts';
import { specOfCall } from './validate.ts';

type StreamCall = ServerWritableStream<ExecuteMessage | UnreadableMessage, object>;

export function executeStream(source: ExecutionSource, call: StreamCall): void {
  const connection = connectionOf(call);
  const spec = specOfCall(source, call, connection, true);
  if ('code' in spec) {
    call.emit('error', toStatus(spec));
    return;
  }
  const answer = new StreamedAnswer(source, call, connection, spec);
  answer.request = source.dispatch.submit(spec, answer);
  // grpc-js emits `cancelled` whenever the stream closes, success included.
  call.on('cancelled', () => answer.onCallEnd());
}

/** The sink of one ExecuteStream call. */
class StreamedAnswer implements ResponseSink {
  /** Undefined: dispatch has refused the request, or has not accepted it yet. */
  request: Request | undefined;
  readonly #source: ExecutionSource;
  readonly #call: StreamCall;
  readonly #connection: Connection;
  readonly #requestId: string;
  readonly #unread: Unread;
  /** Null: the caller asked for no reports of progress. */
  readonly #relay: ProgressRelay | null;
  /** The call was ended with an error of the connection's own. */
  #isRefused = false;

  constructor(source: ExecutionSource, call: StreamCall, connection: Connection, spec: CheckedSpec) {
    this.#source = source;
    this.#call = call;
    this.#connection = connection;
    this.#requestId = spec.requestId;
    this.#unread = createUnread(connection, () => {
      if (this.request !== undefined) source.dispatch.resume(this.request, this);
    });
    this.#relay = spec.reports ? createProgressRelay((report, written) => this.#writeReport(report, written)) : null;
  }

  chunk(payload: Buffer, contentType: string, workerId: string): void {
    this.#write(payload, contentType, workerId);
  }

  result(payload: Buffer, contentType: string, workerId: string): number {
    this.#relay?.close();
    const status = contentType === '' ? 0 : this.#write(payload, contentType, workerId);
    if (status === 0) this.#call.end();
    return status;
  }

  error(error: RequestError): void {
    this.#relay?.close();
    if (!this.#isRefused && !this.#call.destroyed) this.#fail(error);
  }

  progress(report: ReportedProgress): void {
    this.#relay?.report(report);
  }

  onCallEnd(): void {
    this.#relay?.close();
    this.#unread.forget();
    if (this.request !== undefined) onCallEnd(this.#source, this.#call, this.#connection, this.request, this);
  }

  /** Returns the gRPC status code that the caller was sent. */
  #write(payload: Buffer, contentType: string, workerId: string): number {
    if (this.#isClosed()) return code.cancelled;
    const wrong = refuseAnswer(this.#source, this.#connection, payload, workerId);
    if (wrong !== undefined) {
      this.#refuse(wrong);
      return wrong.code;
    }
    const unread = this.#unread;
    const bytes = payload.length + overheadBytes;
    // A waiting chunk should not keep the worker's whole frame in memory.
    const own = unread.bytes > 0 ? compact(payload) : payload;
    unread.add(bytes);
    const response = { payload: own, content_type: contentType, request_id: this.#requestId, worker_id: workerId };
    this.#call.write(response, () => unread.taken(bytes));
    if (unread.mustPause() && this.request !== undefined) this.#source.dispatch.pause(this.request, this);
    return 0;
  }

  #writeReport(report: ReportedProgress, written: () => void): void {
    if (this.#isClosed()) return;
    const bytes = overheadBytes + report.message.length;
    this.#unread.add(bytes);
    this.#call.write({ request_id: this.#requestId, progress: report }, () => {
      this.#unread.taken(bytes);
      written();
    });
  }

  #isClosed(): boolean {
    return this.#isRefused || this.#call.cancelled || this.#call.destroyed;
  }

  /** Ends the call with an error of the connection's own, and cancels the request. */
  #refuse(error: RequestError): void {
    this.#isRefused = true;
    this.#fail(error);
    if (this.request !== undefined) this.#source.dispatch.cancel(this.request, this);
  }

  #fail(error: RequestError): void {
    this.#call.emit('error', toStatus(error));
  }
}
