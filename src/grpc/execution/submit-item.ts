import type { Request, RequestError } from '../../dispatch/request.ts';
import type { ReportedProgress } from '../../domain/evidence.ts';
import { compact } from '../compact.ts';
import { refuseAnswer } from './flow-control.ts';
import type { ProgressRelay } from './progress-relay.ts';
import { createProgressRelay } from './progress-relay.ts';
import type { AnsweredItem, SubmitResults } from './submit-results.ts';

/** One request of a Submit stream, and the sink of its answer. */
export class SubmitItem implements AnsweredItem {
  readonly requestId: string;
  heldBytes: number;
  /** Set when dispatch has accepted the request. */
  request!: Request;
  readonly #results: SubmitResults;
  /** The stream's requests that have not ended, by request_id. */
  readonly #open: Map<string, SubmitItem>;
  /** Null: the caller asked for no reports of progress. */
  readonly #relay: ProgressRelay | null;
  /** The caller was sent an error before the request's end. */
  #isRefused = false;

  constructor(
    results: SubmitResults,
    open: Map<string, SubmitItem>,
    requestId: string,
    heldBytes: number,
    reports: boolean,
  ) {
    this.#results = results;
    this.#open = open;
    this.requestId = requestId;
    this.heldBytes = heldBytes;
    this.#relay = reports ? relayTo(results, requestId) : null;
  }

  chunk(payload: Buffer, contentType: string, workerId: string): void {
    const results = this.#results;
    const { requestId } = this;
    if (this.#isRefused || !this.#open.has(requestId)) return;
    const wrong = refuseAnswer(results.source, results.connection, payload, workerId);
    if (wrong !== undefined) {
      this.#isRefused = true;
      results.fail(requestId, wrong, null);
      return results.source.dispatch.cancel(this.request, this);
    }
    const response = this.#response(payload, contentType, workerId);
    results.add({ request_id: requestId, response, more: true }, payload.length, null);
    if (results.unread.mustPause()) results.source.dispatch.pause(this.request, this);
  }

  result(payload: Buffer, contentType: string, workerId: string): number {
    const results = this.#results;
    const { requestId } = this;
    const ended = this.#leave();
    const wrong = refuseAnswer(results.source, results.connection, payload, workerId);
    if (wrong !== undefined) {
      results.fail(requestId, wrong, ended);
      return wrong.code;
    }
    const response = this.#response(payload, contentType, workerId);
    results.add({ request_id: requestId, response }, payload.length, ended);
    return 0;
  }

  error(error: RequestError): void {
    const ended = this.#leave();
    if (!this.#isRefused) this.#results.fail(this.requestId, error, ended);
    else if (ended !== null) this.#results.connection.memory?.give(this.heldBytes);
  }

  progress(report: ReportedProgress): void {
    this.#relay?.report(report);
  }

  /** The call is over: no report is written after this. */
  closeRelay(): void {
    this.#relay?.close();
  }

  /** The request has ended. Null: it ended before it was open, or the call is over, so the stream holds no memory for it. */
  #leave(): SubmitItem | null {
    this.#relay?.close();
    return this.#open.delete(this.requestId) ? this : null;
  }

  #response(payload: Buffer, contentType: string, workerId: string): object {
    return {
      // A waiting result should not keep the worker's whole frame in memory.
      payload: this.#results.isWriting ? compact(payload) : payload,
      content_type: contentType,
      request_id: this.requestId,
      worker_id: workerId,
    };
  }
}

function relayTo(results: SubmitResults, requestId: string): ProgressRelay {
  return createProgressRelay((report, onWritten) =>
    results.add({ request_id: requestId, progress: report, more: true }, report.message.length, null, onWritten),
  );
}
