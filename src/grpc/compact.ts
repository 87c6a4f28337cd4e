/** What is smaller is a part of memory that Node shares out, and a copy would be one too. */
const sharedBytes = Buffer.poolSize;

/** A payload is a view of its message. That of a small part is copied, for it keeps the whole message for as long as it is held. */
export function compact(payload: Buffer): Buffer {
  const { byteLength } = payload.buffer;
  return byteLength > sharedBytes && payload.length * 2 < byteLength ? Buffer.from(payload) : payload;
}
