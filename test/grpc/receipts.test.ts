import { mkdtempSync, rmSync } from 'node:fs';
import type { Http2Session } from 'node:http2';
import { connect as connectHttp2, constants, createServer } from 'node:http2';
import type { Socket } from 'node:net';
import { connect as connectSocket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { createReceipts } from '../../src/grpc/execution/receipts.ts';
import { until } from '../e2e/agent.ts';

// A real HTTP/2 connection over a unix socket, whose client reads only when the test lets it.

let folder: string;
let session: Http2Session;
let client: Http2Session;
let socket: Socket;
let closeServer: () => void;
let pings: number;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'pw-receipts-'));
  const server = createServer();
  const opened = new Promise<Http2Session>((resolve) => server.once('session', resolve));
  await new Promise<void>((resolve) => server.listen(join(folder, 's'), resolve));
  closeServer = () => server.close();
  const ownSocket = connectSocket(join(folder, 's'));
  socket = ownSocket;
  const duplex = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => void ownSocket.write(chunk, () => done()),
    destroy: (error, done) => {
      ownSocket.destroy();
      done(error);
    },
  });
  socket.on('data', (chunk) => duplex.push(chunk));
  socket.on('error', () => undefined);
  client = connectHttp2('http://localhost', { createConnection: () => duplex });
  client.on('error', () => undefined);
  pings = 0;
  client.on('ping', () => {
    pings += 1;
  });
  session = await opened;
  session.on('error', () => undefined);
  await new Promise((resolve) => session.ping(resolve));
  pings = 0;
});

afterEach(() => {
  client.destroy();
  session.destroy();
  closeServer();
  rmSync(folder, { recursive: true, force: true });
});

/** With `pause` alone Node would go on reading into its buffer. */
function stopReading(): void {
  socket.pause();
  (socket as unknown as { readonly _handle: { readStop(): void } })._handle.readStop();
}

function record() {
  const seen: [number, boolean][] = [];
  const receipts = createReceipts<number>(session, (item, isRead) => seen.push([item, isRead]));
  return { receipts, seen };
}

describe('receipts', () => {
  test('under load the next PING follows the acknowledgement of the one before, without a pause', async () => {
    // Timers stand still, so only the acknowledgements can drive the PINGs.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => void vi.useRealTimers());
    const { receipts, seen } = record();
    for (let item = 0; item < 200; item += 1) receipts.add(item);
    for (const endsAtMs = performance.now() + 5_000; seen.length < 200 && performance.now() < endsAtMs; ) {
      await new Promise(setImmediate);
    }
    expect([seen.length, pings]).toEqual([200, 2]);
  });

  test('answers count as read when the client acknowledges a PING after them, and many answers share one PING', async () => {
    const { receipts, seen } = record();
    for (let item = 0; item < 20; item += 1) receipts.add(item);
    await until(
      () => seen.length === 20,
      'receipts',
      () => seen,
    );
    expect(seen.every(([, isRead]) => isRead)).toBe(true);
    expect(pings).toBe(1);
  });

  test('answers do not count as read while the client reads nothing, nor if it closes with unread bytes', async () => {
    stopReading();
    const { receipts, seen } = record();
    receipts.add(1);
    // A PING is sent within this time.
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(seen).toEqual([]);
    socket.destroy();
    await until(
      () => seen.length === 1,
      'the end',
      () => seen,
    );
    expect(seen).toEqual([[1, false]]);
  });

  test('answers count as read when the client closes in order with nothing unread', async () => {
    const { receipts, seen } = record();
    receipts.add(1);
    // No PING has been sent yet.
    socket.end();
    await until(
      () => seen.length === 1,
      'the end',
      () => seen,
    );
    expect([seen, pings]).toEqual([[[1, true]], 0]);
  });

  test.each([
    ['answers count as read when the client sends GOAWAY without an error', constants.NGHTTP2_NO_ERROR, true],
    [
      'answers do not count as read when the client sends GOAWAY with an error',
      constants.NGHTTP2_INTERNAL_ERROR,
      false,
    ],
  ])('%s', async (_, errorCode, isRead) => {
    const { receipts, seen } = record();
    receipts.add(1);
    client.goaway(errorCode);
    await until(
      () => seen.length === 1,
      'the end',
      () => seen,
    );
    expect([seen, pings]).toEqual([[[1, isRead]], 0]);
  });

  test('answers do not count as read when the agent ends the connection first', async () => {
    const { receipts, seen } = record();
    receipts.add(1);
    session.destroy();
    await until(
      () => seen.length === 1,
      'the end',
      () => seen,
    );
    receipts.add(2);
    expect(seen).toEqual([
      [1, false],
      [2, false],
    ]);
  });

  test('answers to a client that acknowledges nothing count as not read after a while', async () => {
    stopReading();
    const { receipts, seen } = record();
    for (let item = 0; item < 30_000; item += 1) receipts.add(item);
    expect(seen.length).toBeGreaterThanOrEqual(19_000);
    expect(seen.every(([, isRead]) => !isRead)).toBe(true);
    // All are in order, and none is there twice.
    expect(seen.map(([item]) => item)).toEqual(seen.map((_, index) => index));
  });
});
