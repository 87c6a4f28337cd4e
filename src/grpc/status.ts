import type { StatusObject } from '@grpc/grpc-js';
import { Metadata } from '@grpc/grpc-js';
import type { RequestError } from '../dispatch/request.ts';
import { cutBytes, cutEncoded } from './cut-text.ts';
import { errorMessage } from './proto.ts';

/** A request's error as gRPC says it, and back. The one place where the two meet. */

const errorTrailer = 'pitwarden-error-bin';
const pushbackTrailer = 'grpc-retry-pushback-ms';

/**
 * Trailers are small: gRPC's C core, under Python and others, refuses those over 8 KiB (grpc.max_metadata_size), and a
 * binary one is a third longer on the line.
 */
const trailerMaxBytes = { type: 256, message: 1_000, traceback: 3_000 } as const;
/** Of grpc-message as it is written: percent-encoding makes three bytes of each that is not plain ASCII. */
const detailsMaxBytes = 1_500;

/** The fields of execution.proto's Error. */
export interface ErrorView {
  readonly code: number;
  readonly type: string;
  readonly message: string;
  readonly traceback: string;
  readonly worker_id: string;
  readonly exit_reason: string;
  readonly retry_after_ms: number;
  readonly may_have_begun: boolean;
}

export function errorView(error: RequestError): ErrorView {
  return {
    code: error.code,
    type: error.type,
    message: error.message,
    traceback: error.traceback,
    worker_id: error.workerId,
    exit_reason: error.exitReason,
    retry_after_ms: error.retryAfterMs,
    may_have_begun: error.mayHaveBegun,
  };
}

export function toStatus(error: RequestError): StatusObject {
  const view = errorView(error);
  const type = cutBytes(view.type, trailerMaxBytes.type);
  const message = cutBytes(view.message, trailerMaxBytes.message);
  const traceback = cutBytes(view.traceback, trailerMaxBytes.traceback, 'end');
  const metadata = new Metadata();
  metadata.set(errorTrailer, errorMessage.encode({ ...view, type, message, traceback }));
  const pushback = pushbackOf(error);
  if (pushback !== '') metadata.set(pushbackTrailer, pushback);
  const details = type === '' ? message : `${type}: ${message}`;
  return { code: error.code, details: cutDetails(details), metadata };
}

/** What may stand in grpc-message: a longer one breaks the connection. */
export function cutDetails(details: string): string {
  return cutEncoded(details.toWellFormed(), detailsMaxBytes);
}

/**
 * What a gRPC retry policy obeys (gRFC A6): milliseconds to wait, a negative number: do not retry. Without it the policy
 * repeats every call that fails with a status on its list, also one whose command ran.
 */
function pushbackOf({ mayHaveBegun, retryAfterMs }: RequestError): string {
  if (mayHaveBegun) return '-1';
  return retryAfterMs > 0 ? String(retryAfterMs) : '';
}

/** What a failed call's trailers say; undefined: it was not pitwarden that failed it. */
export function fromMetadata(metadata: Metadata): ErrorView | undefined {
  const [bytes] = metadata.get(errorTrailer);
  if (!Buffer.isBuffer(bytes)) return undefined;
  const { may_have_begun, _may_have_begun, ...told } = errorMessage.decode(bytes) as ErrorView & {
    /** The loader's own word for whether the field is there. */
    readonly _may_have_begun?: string;
  };
  return { ...told, may_have_begun: _may_have_begun === undefined || may_have_begun };
}
