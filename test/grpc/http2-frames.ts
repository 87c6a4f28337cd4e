// HTTP/2 frames as bytes, for tests in which a client misbehaves in ways that Node's client cannot.

/** The first bytes of a client. */
export const opening = Buffer.concat([
  Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  frame(4, 0, 0, Buffer.alloc(0)),
]);

export function frame(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

const literal = (name: string, value: string): Buffer =>
  Buffer.concat([Buffer.from([0, name.length]), Buffer.from(name), Buffer.from([value.length]), Buffer.from(value)]);

/** Begins the n-th call of a connection, and leaves it open. */
export function callFrames(n: number, path: string): Buffer {
  const fields = { ':method': 'POST', ':scheme': 'http', ':path': path, ':authority': 'localhost' };
  const headers = { ...fields, 'content-type': 'application/grpc' };
  const block = Object.entries(headers).map(([name, value]) => literal(name, value));
  return frame(1, 4, streamOf(n), Buffer.concat(block));
}

export function data(n: number, bytes: Buffer, isLast = false): Buffer {
  return frame(0, isLast ? 1 : 0, streamOf(n), bytes);
}

export function cancelFrame(n: number): Buffer {
  return frame(3, 0, streamOf(n), Buffer.from([0, 0, 0, 8]));
}

export function manyFrames(count: number, part: (n: number) => Buffer): Buffer {
  return Buffer.concat(Array.from({ length: count }, (_, index) => part(index)));
}

const streamOf = (n: number): number => 1 + 2 * n;
