import type { Http2Session } from 'node:http2';
import { constants } from 'node:http2';

/**
 * Proves that the client of an HTTP/2 connection has read answers. A PING is sent after them. The client handles frames in order,
 * so its ACK proves that it has read everything before the PING. A successful write proves less: the bytes are in the kernel, and
 * may be lost unread if the connection breaks.
 */
export interface Receipts<T> {
  /** The whole item was written. `onReceipt` will be called for it once. */
  add(item: T): void;
}

/** Answers within this time share one PING. */
const gatherMs = 10;
/** With this many answers the PING is sent at once. */
const gatherMax = 64;
/** A caller that sends no ACK for this long may be a stopped process, so its answers count as not read. */
const ackWithinMs = 10_000;
/** Unproven answers of one connection. Beyond this number the oldest count as not read. */
const unprovenMax = 10_000;

/** `isRead` false: the connection ended, or too much time passed, before the client was known to have read the item. */
export function createReceipts<T>(session: Http2Session, onReceipt: (item: T, isRead: boolean) => void): Receipts<T> {
  /** Items written since the last PING. */
  let written: T[] = [];
  /** Items written before the PING that is not acknowledged yet. */
  let pinged: T[] = [];
  let isPinging = false;
  let timer: NodeJS.Timeout | undefined;

  const settle = (items: readonly T[], isRead: boolean): void => {
    for (const item of items) onReceipt(item, isRead);
  };
  const notRead = (): void => {
    const items = pinged;
    pinged = [];
    settle(items, false);
  };
  const arm = (afterMs: number, what: () => void): void => {
    clearTimeout(timer);
    timer = setTimeout(what, afterMs).unref();
  };
  const ping = (): void => {
    if (session.destroyed || isPinging) return;
    // False: as many PINGs are unanswered as Node allows. Try again later.
    isPinging = session.ping(acknowledged);
    if (!isPinging) return arm(gatherMs, ping);
    pinged = written;
    written = [];
    arm(ackWithinMs, notRead);
  };
  const acknowledged = (error: Error | null): void => {
    isPinging = false;
    // The connection has ended, and its `close` event settles the items.
    if (error !== null) return;
    const items = pinged;
    pinged = [];
    clearTimeout(timer);
    timer = undefined;
    settle(items, true);
    if (written.length >= gatherMax) ping();
    else if (written.length > 0) arm(gatherMs, ping);
  };
  const over = (isRead: boolean): void => {
    clearTimeout(timer);
    timer = undefined;
    const items = [...pinged, ...written];
    pinged = [];
    written = [];
    settle(items, isRead);
  };
  const { socket } = session;
  // `end` proves that the client read everything: a client that closes with unread bytes resets the connection instead.
  socket.once('end', () => {
    if (!session.destroyed && isFlushed(socket)) over(true);
  });
  // A client that leaves sends GOAWAY first, and Node then closes the session before the socket ends.
  session.once('goaway', (errorCode) => {
    if (errorCode === constants.NGHTTP2_NO_ERROR && isFlushed(socket)) over(true);
  });
  session.once('close', () => over(false));

  return {
    add: (item) => {
      if (session.destroyed) return onReceipt(item, false);
      written.push(item);
      if (isPinging) {
        if (pinged.length + written.length > unprovenMax) notRead();
        if (written.length > unprovenMax) settle(written.splice(0, gatherMax), false);
      } else if (written.length === 1) arm(gatherMs, ping);
      else if (written.length === gatherMax) ping();
    },
  };
}

/** Whether the kernel has taken all bytes. Node's HTTP/2 bypasses the socket's own buffer, so the number comes from its handle. */
function isFlushed(socket: object): boolean {
  const { _handle: handle } = socket as { readonly _handle?: { readonly writeQueueSize?: number } | null };
  return (handle?.writeQueueSize ?? 0) === 0;
}
