import type { Http2Session } from 'node:http2';

/**
 * nghttp2 ends a connection with an error when its client resets more calls than 1,000 at once and 33 a second: as many as
 * honest callers cancel whose deadlines pass together. Node's own clients then fail all other calls of that connection too.
 * A call that is reset costs no more than one that is answered, its memory is bounded by the budget, and its connection
 * takes turns with others (fair-reading.ts). So the limit is lifted.
 */

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
const nodeHasOption = major > 22 || (major === 22 && minor >= 10);

/** What one client may cancel, where Node can be told. */
const cancelsPerSecond = 50_000;

/** For `http2.createServer`. */
export const cancelOptions: Readonly<Record<string, number>> = nodeHasOption
  ? { streamResetBurst: cancelsPerSecond, streamResetRate: cancelsPerSecond }
  : {};

/** Where Node cannot be told, nghttp2 counts no more once it has said that the connection takes no new calls. */
const mostResets = 500;
const forgottenPerMs = 33 / 1000;

/**
 * Returns what is to be called when a call of the connection was reset. After so many it ends the connection in order: its
 * calls go on, and its client dials again for the next ones.
 */
export function limitResets(session: Http2Session): () => void {
  if (nodeHasOption) return () => undefined;
  let resets = 0;
  let atMs = performance.now();
  return () => {
    const nowMs = performance.now();
    resets = Math.max(0, resets - (nowMs - atMs) * forgottenPerMs) + 1;
    atMs = nowMs;
    if (resets >= mostResets && !session.closed && !session.destroyed) session.close();
  };
}
