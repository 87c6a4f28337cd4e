import type { ClientHttp2Stream } from 'node:http2';

type Fields = Readonly<Record<string, unknown>>;

/**
 * Returns the headers with which a raw gRPC call ended: its trailers, or its response headers if there is nothing else. Undefined:
 * the call has not ended. Errors of the stream are ignored.
 */
export function endOf(stream: ClientHttp2Stream): () => Fields | undefined {
  let end: Fields | undefined;
  const take = (fields: Fields): void => {
    if (fields['grpc-status'] !== undefined) end = fields;
  };
  stream.on('response', take);
  stream.on('trailers', take);
  stream.on('error', () => undefined);
  return () => end;
}

/** The `grpc-status` of that end. */
export function grpcStatusOf(stream: ClientHttp2Stream): () => string | undefined {
  const end = endOf(stream);
  return () => (end() === undefined ? undefined : String(end()?.['grpc-status']));
}
