import type { StatusObject } from '@grpc/grpc-js';
import { Metadata } from '@grpc/grpc-js';
import protobuf from 'protobufjs';
import type { ErrorReason } from '../domain/error-reason.ts';
import { cutBytes, cutEncoded } from './cut-text.ts';

/**
 * The details of a failed call as all of Google's clients know them: a google.rpc.Status with ErrorInfo, RetryInfo and BadRequest in the
 * trailer `grpc-status-details-bin`.
 */

export const detailsTrailer = 'grpc-status-details-bin';
const domain = 'pitwarden';
/** Bytes of grpc-message on the wire: percent-encoding makes three bytes of each byte that is not plain ASCII. */
const detailsMaxBytes = 1_500;
const descriptionMaxBytes = 300;
const metadataMaxBytes = 128;

/** The messages of google/rpc/status.proto and error_details.proto that are used here, and of the types within them. */
const definitions = {
  nested: {
    Status: {
      fields: {
        code: { type: 'int32', id: 1 },
        message: { type: 'string', id: 2 },
        details: { rule: 'repeated', type: 'Any', id: 3 },
      },
    },
    Any: { fields: { type_url: { type: 'string', id: 1 }, value: { type: 'bytes', id: 2 } } },
    ErrorInfo: {
      fields: {
        reason: { type: 'string', id: 1 },
        domain: { type: 'string', id: 2 },
        metadata: { keyType: 'string', type: 'string', id: 3 },
      },
    },
    Duration: { fields: { seconds: { type: 'int64', id: 1 }, nanos: { type: 'int32', id: 2 } } },
    RetryInfo: { fields: { retry_delay: { type: 'Duration', id: 1 } } },
    FieldViolation: { fields: { field: { type: 'string', id: 1 }, description: { type: 'string', id: 2 } } },
    BadRequest: { fields: { field_violations: { rule: 'repeated', type: 'FieldViolation', id: 1 } } },
  },
};
const root = protobuf.Root.fromJSON(definitions);
const rpcStatus = root.lookupType('Status');
const types = {
  ErrorInfo: root.lookupType('ErrorInfo'),
  RetryInfo: root.lookupType('RetryInfo'),
  BadRequest: root.lookupType('BadRequest'),
};

export interface Failure {
  /** The gRPC status code. */
  readonly code: number;
  /** The text of grpc-message, already cut. */
  readonly message: string;
  readonly reason: ErrorReason;
  /** 0: no advice. */
  readonly retryAfterMs?: number;
  /** For programs, such as the worker's id. Empty values are left out. */
  readonly metadata?: Readonly<Record<string, string>>;
}

interface Any {
  readonly type_url: string;
  readonly value: Uint8Array;
}

/** Refusals under overload are many and have no metadata, so this part of them is encoded once. */
const plainInfos = new Map<ErrorReason, Any>();

/** The bytes of the trailer: at most about 2.5 KiB. */
export function encodeDetails({ code, message, reason, retryAfterMs = 0, metadata = {} }: Failure): Buffer {
  const details: Any[] = [errorInfo(reason, metadata)];
  if (retryAfterMs > 0) {
    const seconds = Math.floor(retryAfterMs / 1000);
    details.push(
      any('RetryInfo', { retry_delay: { seconds, nanos: Math.round((retryAfterMs - seconds * 1000) * 1e6) } }),
    );
  }
  if (reason === 'INVALID_REQUEST') details.push(...violation(message));
  return rpcStatus.encode({ code, message, details }).finish() as Buffer;
}

/** A status with details, for errors that are no request's. */
export function failedStatus(
  code: number,
  details: string,
  reason: ErrorReason,
): { code: number; details: string; metadata: Metadata } & Partial<StatusObject> {
  const message = cutDetails(details);
  const metadata = new Metadata();
  metadata.set(detailsTrailer, encodeDetails({ code, message, reason }));
  return { code, details: message, metadata };
}

/** Cuts a text for grpc-message. A longer one breaks the connection. */
export function cutDetails(details: string): string {
  return cutEncoded(details.toWellFormed(), detailsMaxBytes);
}

function errorInfo(reason: ErrorReason, metadata: Readonly<Record<string, string>>): Any {
  const known = Object.entries(metadata).filter(([, value]) => value !== '');
  if (known.length > 0) {
    const bounded = known.map(([key, value]) => [key, cutBytes(value, metadataMaxBytes)]);
    return any('ErrorInfo', { reason, domain, metadata: Object.fromEntries(bounded) });
  }
  let plain = plainInfos.get(reason);
  if (plain === undefined) {
    plain = any('ErrorInfo', { reason, domain });
    plainInfos.set(reason, plain);
  }
  return plain;
}

/** Messages about a wrong value begin with the name of its field: `size: expected 0 to 1000, got none`. */
function violation(message: string): Any[] {
  const [, field = '', description = ''] = /^([a-z][a-z0-9_.]{0,63}): (.*)$/s.exec(message) ?? [];
  if (field === '') return [];
  return [
    any('BadRequest', { field_violations: [{ field, description: cutBytes(description, descriptionMaxBytes) }] }),
  ];
}

function any(type: keyof typeof types, message: object): Any {
  return { type_url: `type.googleapis.com/google.rpc.${type}`, value: types[type].encode(message).finish() };
}
