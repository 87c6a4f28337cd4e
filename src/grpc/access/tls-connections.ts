import type { Http2Session } from 'node:http2';
import { handshakeTimeoutMs } from './tls-credentials.ts';

/** How long the calls of a connection that must end may go on. */
const callsMaxMs = 30_000;
/** Longer delays than this end at once in Node. */
const timerMaxMs = 2 ** 31 - 1;

/**
 * Connections over TLS. A certificate is verified once, when its connection is made. So a connection ends in time, and its client
 * makes another, for which the certificate is verified again.
 */
export interface TlsConnections {
  add(session: Http2Session): void;
  readonly open: ReadonlySet<Http2Session>;
  /**
   * Ends all connections that are open now: they take no new calls, and are cut after 30 s. The same for those whose handshake
   * goes on now: it began with what held before.
   */
  renewAll(): void;
  /** Cuts the connections whose certificates are revoked now, with the calls that run on them. Others live on. */
  endRevoked(): void;
}

export function createTlsConnections(maxAgeMs: number, isRevoked: (session: Http2Session) => boolean): TlsConnections {
  const open = new Set<Http2Session>();
  /** Connections that were made while handshakes of before the last `renewAll` may have gone on. */
  const doubtful = new Set<Http2Session>();
  let handshakes: NodeJS.Timeout | undefined;
  const endDoubtful = (): void => {
    handshakes = undefined;
    for (const session of doubtful) end(session);
    doubtful.clear();
  };
  return {
    open,
    add: (session) => {
      // The handshake may have begun before the certificate was revoked.
      if (isRevoked(session)) return session.destroy();
      open.add(session);
      if (handshakes !== undefined) doubtful.add(session);
      // Connections that began together, as after a restart, do not end together.
      const ageMs = maxAgeMs * (0.9 + Math.random() * 0.1);
      const timer = Number.isFinite(ageMs)
        ? setTimeout(() => end(session), Math.min(ageMs, timerMaxMs)).unref()
        : undefined;
      session.once('close', () => {
        clearTimeout(timer);
        open.delete(session);
        doubtful.delete(session);
      });
    },
    renewAll: () => {
      for (const session of open) end(session);
      clearTimeout(handshakes);
      handshakes = setTimeout(endDoubtful, handshakeTimeoutMs + 1_000).unref();
    },
    endRevoked: () => {
      for (const session of open) if (isRevoked(session)) session.destroy();
    },
  };
}

/** Sends GOAWAY. The calls that run may end, and clients make their next calls over a new connection. */
function end(session: Http2Session): void {
  if (session.closed || session.destroyed) return;
  session.close();
  const timer = setTimeout(() => session.destroy(), callsMaxMs).unref();
  session.once('close', () => clearTimeout(timer));
}
