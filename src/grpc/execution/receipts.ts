import type { Http2Session } from 'node:http2';
import { constants } from 'node:http2';

/**
 * Proof that the other side of an HTTP/2 connection has read what was sent: a PING is sent after it, and the other side
 * handles frames in order, so its ACK says that it has read everything before. A write that succeeded proves less: the bytes
 * are in the kernel, and a caller whose connection breaks may drop them unread.
 */
export interface Receipts<T> {
  /** `item` was written whole. `onReceipt` is called for it once. */
  add(item: T): void;
}

/** Answers that are written within this time share one PING. */
const gatherMs = 10;
/** So many are not gathered any longer. */
const gatherMax = 64;
/** A caller that acknowledges nothing for so long may be stopped: its answers count as not read. */
const ackWithinMs = 10_000;
/** Answers of one connection that wait for their proof; beyond it the oldest count as not read. */
const unprovenMax = 10_000;

/** `onReceipt`: whether the other side is known to have read the item. False: the connection ended before that was known. */
export function createReceipts<T>(session: Http2Session, onReceipt: (item: T, isRead: boolean) => void): Receipts<T> {
  /** Written since the last PING. */
  let written: T[] = [];
  /** Written before the PING that is not acknowledged yet. */
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
    // Refused when others have sent as many PINGs as Node allows: it is tried again.
    isPinging = session.ping(acknowledged);
    if (!isPinging) return arm(gatherMs, ping);
    pinged = written;
    written = [];
    arm(ackWithinMs, notRead);
  };
  const acknowledged = (error: Error | null): void => {
    isPinging = false;
    // The connection's end says what becomes of them.
    if (error !== null) return;
    const items = pinged;
    pinged = [];
    clearTimeout(timer);
    timer = undefined;
    settle(items, true);
    if (written.length > 0) arm(gatherMs, ping);
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
  // A caller that leaves bytes unread when it closes resets the connection instead.
  socket.once('end', () => {
    if (!session.destroyed && isFlushed(socket)) over(true);
  });
  // A client that leaves says so first, and Node then closes the session before the socket ends.
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

/** The kernel has taken all bytes. Node's HTTP/2 writes beside the socket's own buffer, so its handle is asked. */
function isFlushed(socket: object): boolean {
  const { _handle: handle } = socket as { readonly _handle?: { readonly writeQueueSize?: number } | null };
  return (handle?.writeQueueSize ?? 0) === 0;
}
