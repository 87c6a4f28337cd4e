import { connect } from 'node:net';
import fc from 'fast-check';
import { pause } from '../../../bench/processes.ts';
import type { Bytes } from '../bytes.ts';
import { editedBytes, mutated } from '../bytes.ts';
import type { Surface } from './surface.ts';

/** Connections to the HTTP port. */
interface HttpConnection {
  readonly text: Bytes;
  /** Sent in so many pieces. */
  readonly pieces: number;
  readonly connections: number;
  readonly ending: 'close' | 'stay' | 'reset';
}

const valid = fc.constantFrom(
  'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n',
  'GET /healthz HTTP/1.0\r\n\r\n',
  'HEAD /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: keep-alive\r\n\r\n',
  'POST /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n',
  'GET /metrics HTTP/1.1\r\nHost: evil.example\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n',
  'CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9999999999\r\n\r\n',
);
const pieces = ['\r\n', 'GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n', 'X: y\r\n', '\0', '%', '../', 'a'];

export const http: Surface<HttpConnection> = {
  name: 'HTTP',
  cases: fc.record({
    text: mutated(valid, pieces),
    pieces: fc.integer({ min: 1, max: 5 }),
    connections: fc.oneof({ weight: 6, arbitrary: fc.constant(1) }, fc.integer({ min: 2, max: 60 })),
    ending: fc.constantFrom('close' as const, 'stay' as const, 'reset' as const),
  }),
  most: 40,
  harmsProbe: false,
  restarts: false,
  attack: async (target, cases) => {
    const port = target.httpPort();
    const sockets = cases.flatMap((each) => {
      // Pipelined requests are answered one by one: a thousand of /metrics are enough.
      const bytes = editedBytes(each.text).subarray(0, 64 * 1024);
      return Array.from({ length: each.connections }, () => {
        const socket = connect(port, '127.0.0.1');
        socket.on('error', () => undefined);
        socket.resume();
        const step = Math.max(1, Math.ceil(bytes.length / each.pieces));
        for (let at = 0; at < bytes.length; at += step) socket.write(bytes.subarray(at, at + step));
        if (each.ending === 'close') socket.end();
        if (each.ending === 'reset') socket.once('connect', () => socket.resetAndDestroy());
        return socket;
      });
    });
    await pause(1_000);
    for (const socket of sockets) socket.destroy();
    return undefined;
  },
};
