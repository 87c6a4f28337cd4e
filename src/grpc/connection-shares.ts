import type { Http2Session } from 'node:http2';
import type { ConnectionLimit, ConnectionLimitOptions, Evictable } from './connection-limit.ts';
import { limitConnections } from './connection-limit.ts';

/** Where a connection came in: at `agent.sock` or a server's only socket, at `control.sock`, or over TCP. */
export type Entrance = 'socket' | 'control' | 'tcp';

export interface ShareOptions extends Pick<ConnectionLimitOptions, 'max' | 'onRefused'> {
  /** How many connections `control.sock` may have beside those of `max`. */
  controlMax(): number;
  /** The connection that came in there and has had no calls for the longest time; undefined: all are in use. */
  longestIdle(isCandidate: (session: Http2Session) => boolean): Evictable | undefined;
  entranceOf(session: Http2Session): Entrance | undefined;
}

/** The part of `max` that may be over TCP, where strangers can connect. The rest is left for the unix socket. */
const tcpShare = 0.75;

/**
 * Each entrance makes room among its own connections only. So strangers over TCP close none at the unix sockets, and callers who
 * fill `agent.sock` keep nobody from `control.sock`.
 */
export function limitShares(options: ShareOptions): Readonly<Record<Entrance, ConnectionLimit>> {
  const { max, controlMax, onRefused, longestIdle, entranceOf } = options;
  const limit = (entrance: Entrance, maxOfEntrance: () => number): ConnectionLimit =>
    limitConnections({
      max: maxOfEntrance,
      evictable: () => longestIdle((session) => entranceOf(session) === entrance),
      onRefused,
    });
  const socket: ConnectionLimit = limit('socket', () => max() - tcp.open.size);
  const tcp: ConnectionLimit = limit('tcp', () => Math.min(Math.floor(max() * tcpShare), max() - socket.open.size));
  return { socket, tcp, control: limit('control', controlMax) };
}
