import type { Http2Session } from 'node:http2';

/** How long the calls of a connection that must end may go on. */
const callsMaxMs = 30_000;

/**
 * Connections over TLS. A certificate is verified once, when its connection is made. So a connection ends in time, and its client
 * makes another, for which the certificate is verified again.
 */
export interface TlsConnections {
  add(session: Http2Session): void;
  /** Ends all connections that are open now: they take no new calls, and are cut after 30 s. */
  renewAll(): void;
}

export function createTlsConnections(maxAgeMs: number): TlsConnections {
  const open = new Set<Http2Session>();
  return {
    add: (session) => {
      open.add(session);
      // Connections that began together, as after a restart, do not end together.
      const ageMs = maxAgeMs * (0.9 + Math.random() * 0.1);
      const timer = Number.isFinite(ageMs) ? setTimeout(() => end(session), ageMs).unref() : undefined;
      session.once('close', () => {
        clearTimeout(timer);
        open.delete(session);
      });
    },
    renewAll: () => {
      for (const session of open) end(session);
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
