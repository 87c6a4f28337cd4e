/** Node allocates smaller Buffers from a shared pool, so a copy of one would be in a pool too. */
const sharedBytes = Buffer.poolSize;

/** A payload is a view of its message, and keeps the whole message in memory. A payload that is a small part of it is copied. */
export function compact(payload: Buffer): Buffer {
  const { byteLength } = payload.buffer;
  return byteLength > sharedBytes && payload.length * 2 < byteLength ? Buffer.from(payload) : payload;
}
