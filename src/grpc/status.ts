import type { StatusObject } from '@grpc/grpc-js';
import { Metadata } from '@grpc/grpc-js';
import type { RequestError } from '../dispatch/request.ts';
import { cutBytes } from './cut-text.ts';
import { cutDetails, detailsTrailer, encodeDetails } from './error-details.ts';
import { errorMessage } from './proto.ts';

/** Translates errors of requests into gRPC statuses and back. No other file does. */

const errorTrailer = 'pitwarden-error-bin';
const pushbackTrailer = 'grpc-retry-pushback-ms';

/**
 * Trailers must be small. gRPC's C core, which Python and other languages use, refuses more than 8 KiB
 * (grpc.max_metadata_size), and a binary trailer is a third longer on the wire. A traceback gets what the others leave.
 */
const trailerMaxBytes = { type: 256, message: 1_000, traceback: 3_000 } as const;
const trailersMaxBytes = 7_500;

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
  readonly reason: string;
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
    reason: error.reason,
  };
}

export function toStatus(error: RequestError): StatusObject {
  const view = errorView(error);
  const type = cutBytes(view.type, trailerMaxBytes.type);
  const message = cutBytes(view.message, trailerMaxBytes.message);
  const details = cutDetails(type === '' ? message : `${type}: ${message}`);
  const encodedDetails = encodeDetails({
    ...{ code: error.code, message: details, reason: error.reason },
    // A program that obeys it repeats the request by itself.
    retryAfterMs: error.mayHaveBegun ? 0 : error.retryAfterMs,
    metadata: { worker_id: error.workerId, exit_reason: error.exitReason },
  });
  const traceback =
    view.traceback === '' ? '' : cutBytes(view.traceback, tracebackRoom(encodedDetails, details, type, message), 'end');
  const metadata = new Metadata();
  metadata.set(errorTrailer, errorMessage.encode({ ...view, type, message, traceback }));
  metadata.set(detailsTrailer, encodedDetails);
  const pushback = pushbackOf(error);
  if (pushback !== '') metadata.set(pushbackTrailer, pushback);
  return { code: error.code, details, metadata };
}

/** How many bytes a traceback may have: base64 makes four bytes of three. */
function tracebackRoom(encodedDetails: Buffer, details: string, type: string, message: string): number {
  const binary = encodedDetails.length + Buffer.byteLength(type) + Buffer.byteLength(message);
  const left = trailersMaxBytes - encodeURI(details).length - (binary * 4) / 3;
  return Math.max(0, Math.min(trailerMaxBytes.traceback, Math.floor((left * 3) / 4)));
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
