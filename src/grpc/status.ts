import type { StatusObject } from '@grpc/grpc-js';
import { Metadata } from '@grpc/grpc-js';
import type { RequestError } from '../dispatch/request.ts';
import { cutBytes, cutEncoded } from './cut-text.ts';
import { errorMessage } from './proto.ts';

/** Translates errors of requests into gRPC statuses and back. No other file does. */

const errorTrailer = 'pitwarden-error-bin';
const pushbackTrailer = 'grpc-retry-pushback-ms';

/**
 * Trailers must be small. gRPC's C core, which Python and other languages use, refuses more than 8 KiB
 * (grpc.max_metadata_size), and a binary trailer is a third longer on the wire.
 */
const trailerMaxBytes = { type: 256, message: 1_000, traceback: 3_000 } as const;
/** Bytes of grpc-message on the wire: percent-encoding makes three bytes of each byte that is not plain ASCII. */
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

/** Cuts a text for grpc-message. A longer one breaks the connection. */
export function cutDetails(details: string): string {
  return cutEncoded(details.toWellFormed(), detailsMaxBytes);
}

/**
 * The trailer that a gRPC retry policy obeys (gRFC A6): milliseconds to wait, or a negative number to forbid a retry. Without it
 * the policy repeats every call that fails with a status on its list, even if the command ran.
 */
function pushbackOf({ mayHaveBegun, retryAfterMs }: RequestError): string {
  if (mayHaveBegun) return '-1';
  return retryAfterMs > 0 ? String(retryAfterMs) : '';
}

/** Reads the error from a failed call's trailers; undefined: pitwarden did not fail the call. */
export function fromMetadata(metadata: Metadata): ErrorView | undefined {
  const [bytes] = metadata.get(errorTrailer);
  if (!Buffer.isBuffer(bytes)) return undefined;
  const { may_have_begun, _may_have_begun, ...error } = errorMessage.decode(bytes) as ErrorView & {
    /** Set by proto-loader if the field is present. */
    readonly _may_have_begun?: string;
  };
  return { ...error, may_have_begun: _may_have_begun === undefined || may_have_begun };
}
