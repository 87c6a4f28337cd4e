import type { Http2Session } from 'node:http2';

/**
 * Closes connections whose HTTP/2 session is dead although Node still holds them. In Node 20 a session dies after a protocol
 * error, or after its client reset too many calls. Node then neither reads nor writes, so it does not see the client hang up, and
 * the connection keeps its file descriptor.
 */

/** Each session of a server, and how many calls it has now. */
export type OpenSessions = () => Iterable<readonly [Http2Session, { readonly activeStreams: number }]>;

const sweepEveryMs = 1_000;
/** The wait between two PINGs to a session doubles up to this. */
const longestWaitMs = 15_000;
/** A live session has written its PING by then. */
const writtenWithinMs = 50;
/**
 * A session without calls is closed if its client answers no PING for this long, which harms nobody. Clients built on gRPC's C
 * core may read an idle connection only every 5 s.
 */
const silentMs = 12_000;

interface Probe {
  nextAtMs: number;
  waitMs: number;
  /** When the oldest unanswered PING was sent; 0: all are answered. */
  silentSinceMs: number;
}

/** Checks the sessions at intervals. Returns a function that ends the checks. */
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
  // Immediates run after the event loop has read its sockets. So if the agent itself was stopped, PING answers are read first.
  const sweep = setInterval(() => setImmediate(look), sweepEveryMs);
  sweep.unref();
  return () => clearInterval(sweep);
}

/** Sends a PING. If the PING is neither written nor in the kernel's queue after `writtenWithinMs`, the session is dead. */
function ask(session: Http2Session, probe: Probe, nowMs: number): void {
  probe.waitMs = Math.min(2 * probe.waitMs, longestWaitMs);
  probe.nextAtMs = nowMs + probe.waitMs;
  const writtenBefore = handleOf(session)?.bytesWritten;
  if (probe.silentSinceMs === 0) probe.silentSinceMs = nowMs;
  // False: as many PINGs are unanswered as Node allows.
  const isSent = session.ping((error) => {
    if (error === null) probe.silentSinceMs = 0;
  });
  if (!isSent || writtenBefore === undefined) return;
  const check = (): void => {
    const handle = session.destroyed ? undefined : handleOf(session);
    if (handle?.bytesWritten === writtenBefore && handle.writeQueueSize === 0) session.destroy();
  };
  // Node writes in an immediate of its own, which runs before this one even if the event loop is late.
  setTimeout(() => setImmediate(check), writtenWithinMs).unref();
}

interface SocketHandle {
  readonly bytesWritten?: number;
  readonly writeQueueSize?: number;
}

/** Node's HTTP/2 bypasses the socket's own buffer, so the numbers come from the socket's handle. */
function handleOf({ socket }: Http2Session): SocketHandle | undefined {
  return (socket as unknown as { readonly _handle?: SocketHandle | null } | undefined)?._handle ?? undefined;
}
