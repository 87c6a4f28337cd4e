import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import type { Socket } from 'node:net';
import { connect as dial } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';
import { callFrames, cancelFrame, frame, manyFrames, opening } from './http2-frames.ts';

let dir: string;
let path: string;
let api: ApiServer;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'pw-'));
  path = join(dir, 'sock');
  api = createServer({ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20) });
  await api.bind(`unix:${path}`);
});

afterEach(async () => {
  await api.stop(0);
  rmSync(dir, { recursive: true });
});

async function dialled(): Promise<Socket> {
  const socket = dial(path).on('error', () => undefined);
  socket.resume();
  await new Promise((resolve) => socket.once('connect', resolve));
  socket.write(opening);
  return socket;
}

const descriptors = (): number => readdirSync('/proc/self/fd').length;

test.each<[string, Buffer]>([
  ['data on stream 0', frame(0, 0, 0, Buffer.from('x'))],
  ['a frame that is too large', frame(0, 0, 1, Buffer.alloc(17_000))],
  ['half of a frame', frame(0, 0, 1, Buffer.alloc(1_000)).subarray(0, 500)],
  [
    'two thousand calls that it reset at once',
    manyFrames(2_000, (n) => Buffer.concat([callFrames(n, '/none'), cancelFrame(n)])),
  ],
])(
  'a connection whose client sent %s and left is closed',
  async (_, bytes) => {
    const before = descriptors();
    for (let i = 0; i < 5; i += 1) {
      const socket = await dialled();
      await new Promise((resolve) => socket.write(bytes, resolve));
      socket.end();
      await vi.waitFor(() => expect(socket.readableLength).toBe(0));
      socket.destroy();
    }
    await vi.waitFor(() => expect(descriptors()).toBeLessThanOrEqual(before), { timeout: 15_000, interval: 100 });
  },
  20_000,
);

test('a connection with a protocol error is closed although its client keeps it open', async () => {
  const socket = await dialled();
  socket.write(frame(0, 0, 0, Buffer.from('x')));
  await vi.waitFor(() => expect(socket.closed || socket.readableEnded).toBe(true), { timeout: 5_000 });
});

test('a silent connection whose client answers PINGs stays open', async () => {
  const session = connectHttp2('http://localhost', { createConnection: () => dial(path) });
  let pings = 0;
  session.on('ping', () => {
    pings += 1;
  });
  await vi.waitFor(() => expect(pings).toBeGreaterThanOrEqual(2), { timeout: 5_000 });
  expect(session.closed).toBe(false);
  session.destroy();
});
