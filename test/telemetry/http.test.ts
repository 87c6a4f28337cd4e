import type { Socket } from 'node:net';
import { connect as dial } from 'node:net';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { HttpServer } from '../../src/telemetry/http.ts';
import { startHttp } from '../../src/telemetry/http.ts';

const max = 4;
let server: HttpServer;
let refused: string[];
let strangers: Socket[];
let metrics: () => Promise<{ contentType: string; body: string }>;

beforeEach(async () => {
  refused = [];
  strangers = [];
  metrics = async () => ({ contentType: 'text/plain', body: 'a 1\n' });
  server = await startHttp(
    { host: '127.0.0.1', port: 0 },
    {
      metrics: () => metrics(),
      health: () => ({ ok: true, text: 'ok' }),
      readiness: () => ({ ok: true, text: 'ready' }),
    },
    { maxConnections: () => max, onRefused: (message) => refused.push(message) },
  );
});

afterEach(async () => {
  for (const stranger of strangers) stranger.destroy();
  await server.close();
});

const [host, port] = [() => server.address.split(':')[0] ?? '', () => Number(server.address.split(':')[1])];

/** Opens a connection, sends `text`, and waits. */
async function stranger(text = ''): Promise<Socket> {
  const socket = dial(port(), host());
  socket.on('error', () => undefined);
  strangers.push(socket);
  await new Promise<void>((resolve) => socket.once('connect', () => resolve()));
  socket.write(text);
  return socket;
}

/** Sends `text`, and returns the status line. */
async function ask(text: string): Promise<string> {
  const socket = await stranger(text);
  let answer = '';
  for await (const chunk of socket) {
    answer += chunk;
    if (answer.includes('\r\n')) break;
  }
  return answer.split('\r\n', 1)[0] ?? '';
}

const metricsRequest = 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n';

test('a new connection replaces the oldest idle one', async () => {
  for (let count = 0; count < 3 * max; count += 1) await stranger(count % 2 === 0 ? '' : 'GET /metrics HTTP/1.1\r\n');
  expect((await fetch(`http://${server.address}/healthz`)).status).toBe(200);
  await vi.waitFor(() => expect(strangers.filter((socket) => !socket.destroyed).length).toBeLessThanOrEqual(max));
  expect(refused).toEqual([]);
});

test('connections that wait for answers stay, and one too many is closed and reported once', async () => {
  let answer = (): void => undefined;
  const waits = new Promise<void>((resolve) => {
    answer = resolve;
  });
  let asking = 0;
  metrics = async () => {
    asking += 1;
    await waits;
    return { contentType: 'text/plain', body: 'a 1\n' };
  };
  const asked: Promise<string>[] = [];
  for (let count = 1; count <= max; count += 1) {
    asked.push(ask('GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n'));
    await vi.waitFor(() => expect(asking).toBe(count));
  }
  for (let count = 0; count < 2; count += 1) {
    const late = await stranger();
    await new Promise((resolve) => late.once('close', resolve).resume());
  }
  expect(refused).toHaveLength(1);
  expect(refused[0]).toMatch(/1 new connections were closed: 4 are open and in use/);
  expect(server.connections()).toEqual({ open: max, max, refused: 2, evicted: 0 });
  answer();
  expect(await Promise.all(asked)).toEqual(Array(max).fill('HTTP/1.1 200 OK'));
});

test.each(['/metrics', '/healthz', '/nothing'])(
  'a connection with pipelined requests for %s is closed',
  async (path) => {
    const one = `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
    const socket = await stranger(one.repeat(1_000));
    let answers = '';
    socket.on('data', (data) => {
      answers += data;
    });
    await new Promise((resolve) => socket.once('close', resolve));
    expect(answers.match(/HTTP\/1.1 /g)?.length ?? 0).toBeLessThanOrEqual(1);
  },
);

test('a connection serves one request after another', async () => {
  const socket = await stranger();
  let answers = '';
  socket.on('data', (data) => {
    answers += data;
  });
  for (let count = 1; count <= 5; count += 1) {
    socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await vi.waitFor(() => expect(answers.match(/\r\nok\n/g)).toHaveLength(count));
  }
});

test('continuous requests for metrics leave most of the time to other callers', async () => {
  let renderedMs = 0;
  metrics = async () => {
    const startedAtMs = performance.now();
    while (performance.now() - startedAtMs < 10);
    renderedMs += performance.now() - startedAtMs;
    return { contentType: 'text/plain', body: 'a 1\n' };
  };
  const startedAtMs = performance.now();
  const caller = async (): Promise<void> => {
    for (let count = 0; count < 10; count += 1) expect(await ask(metricsRequest)).toBe('HTTP/1.1 200 OK');
  };
  await Promise.all([caller(), caller(), caller()]);
  expect(renderedMs / (performance.now() - startedAtMs)).toBeLessThan(0.4);
});

test.each([
  ['localhost', 200],
  ['localhost:9464', 200],
  ['LOCALHOST', 200],
  ['agent.localhost', 200],
  ['127.0.0.1:9464', 200],
  ['[::1]:9464', 200],
  ['10.1.2.3', 200],
  ['evil.example', 421],
  ['evil.example:9464', 421],
  ['127.0.0.1.evil.example', 421],
  ['localhost.evil.example', 421],
])('a request for host %s gets status %i', async (name, status) => {
  expect(await ask(`GET /metrics HTTP/1.1\r\nHost: ${name}\r\n\r\n`)).toMatch(`HTTP/1.1 ${status} `);
});

test('an HTTP/1.0 request without a host is served', async () => {
  expect(await ask('GET /healthz HTTP/1.0\r\n\r\n')).toBe('HTTP/1.1 200 OK');
});
