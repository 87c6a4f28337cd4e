import type { Http2Session } from 'node:http2';

/**
 * nghttp2 ends a connection with an error if its client resets more than 1,000 calls at once and 33 a second. Honest callers
 * cancel that many when their deadlines pass together, and Node's own clients then fail all other calls of the connection too. A
 * call that is reset costs no more than a call that is answered, the budget bounds its memory, and its connection takes turns
 * with others (fair-reading.ts). So the limit is lifted.
 */

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
const nodeHasOption = major > 22 || (major === 22 && minor >= 10);

/** How many calls one client may cancel, if Node has an option for that. */
const cancelsPerSecond = 50_000;

/** For `http2.createServer`. */
export const cancelOptions: Readonly<Record<string, number>> = nodeHasOption
  ? { streamResetBurst: cancelsPerSecond, streamResetRate: cancelsPerSecond }
  : {};

/** Without the option: nghttp2 stops counting resets once it has announced that the connection takes no new calls. */
const mostResets = 500;
const forgottenPerMs = 33 / 1000;

/**
 * Returns a function to call for each call of the connection that was reset. After `mostResets` the connection is closed in
 * order: its calls go on, and the client dials again for the next ones.
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
