import type { Http2Session } from 'node:http2';

/**
 * Finds connections for which HTTP/2 is over while Node goes on holding them. Node 20 does so after a protocol error, and after
 * it has refused a client that resets too many calls: it neither reads nor writes any more, so that it does not see the
 * client hang up either, and every such connection keeps its file descriptor.
 */

/** Each session of a server, and the calls that it has now. */
export type OpenSessions = () => Iterable<readonly [Http2Session, { readonly activeStreams: number }]>;

const sweepEveryMs = 1_000;
/** A session is asked again after twice as long, up to this. */
const longestWaitMs = 15_000;
/** What a session that lives writes at once is written by then. */
const writtenWithinMs = 50;
/**
 * A session without calls whose client answers no PING for so long: nobody is harmed when it is closed. Clients built on gRPC's
 * C core may look at an idle connection only every 5 s.
 */
const silentMs = 12_000;

interface Probe {
  nextAtMs: number;
  waitMs: number;
  /** Since when a PING is unanswered; 0: none is. */
  silentSinceMs: number;
}

/** Returns what ends the search. */
export function closeDeadSessions(sessions: OpenSessions): () => void {
  const probes = new WeakMap<Http2Session, Probe>();
  const look = (): void => {
    const nowMs = performance.now();
    for (const [session, { activeStreams }] of sessions()) {
      if (session.destroyed) continue;
      let probe = probes.get(session);
      if (probe === undefined) {
        probe = { nextAtMs: nowMs, waitMs: sweepEveryMs / 2, silentSinceMs: 0 };
        probes.set(session, probe);
      }
      if (probe.silentSinceMs > 0 && nowMs - probe.silentSinceMs > silentMs && activeStreams === 0) session.destroy();
      else if (nowMs >= probe.nextAtMs) ask(session, probe, nowMs);
    }
  };
  // Immediates come after the loop has read its sockets: after a pause of the agent the PINGs' answers are read first.
  const sweep = setInterval(() => setImmediate(look), sweepEveryMs);
  sweep.unref();
  return () => clearInterval(sweep);
}

/** Sends a PING. One that is neither written nor waits in the kernel's queue will never be. */
function ask(session: Http2Session, probe: Probe, nowMs: number): void {
  probe.waitMs = Math.min(2 * probe.waitMs, longestWaitMs);
  probe.nextAtMs = nowMs + probe.waitMs;
  const writtenBefore = handleOf(session)?.bytesWritten;
  if (probe.silentSinceMs === 0) probe.silentSinceMs = nowMs;
  // False: as many are unanswered as Node allows.
  const isSent = session.ping((error) => {
    if (error === null) probe.silentSinceMs = 0;
  });
  if (!isSent || writtenBefore === undefined) return;
  const check = (): void => {
    const handle = session.destroyed ? undefined : handleOf(session);
    if (handle?.bytesWritten === writtenBefore && handle.writeQueueSize === 0) session.destroy();
  };
  // Node writes in an immediate of its own, which comes before this one, however late the loop is.
  setTimeout(() => setImmediate(check), writtenWithinMs).unref();
}

interface SocketHandle {
  readonly bytesWritten?: number;
  readonly writeQueueSize?: number;
}

/** Node's HTTP/2 writes beside the socket's own buffer, so the socket's handle is asked. */
function handleOf({ socket }: Http2Session): SocketHandle | undefined {
  return (socket as unknown as { readonly _handle?: SocketHandle | null } | undefined)?._handle ?? undefined;
}
