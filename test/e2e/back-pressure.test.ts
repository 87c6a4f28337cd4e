import { readFileSync } from 'node:fs';
import type { ClientHttp2Session } from 'node:http2';
import { connect as connectHttp2 } from 'node:http2';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import type { ClientDuplexStream, ServiceError } from '@grpc/grpc-js';
import { credentials } from '@grpc/grpc-js';
import { afterEach, expect, test } from 'vitest';
import { clients } from '../../src/grpc/proto.ts';
import type { TestAgent } from './agent.ts';
import { python, root, spawnAgent, until, untilReady } from './agent.ts';
import { connect } from './grpc.ts';
import { scrape } from './http.ts';

// The agent does not buffer without limit for callers and workers that do not read: its memory stays bounded, and
// others are served.

const mib = 1024 * 1024;
let agent: TestAgent | undefined;

afterEach(async () => {
  await agent?.stop();
  agent = undefined;
});

async function start(keys: string, extra = '', count = 1): Promise<TestAgent> {
  agent = await spawnAgent(`octets: { app: octets:app, python: ${python}, cwd: ${root}test/fixtures, ${keys} }`, extra);
  await untilReady(agent, 'octets', count);
  return agent;
}

function rssBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) * 1024;
}

/** The maximum RSS of a process while `during` runs. */
async function peakRss(pid: number, during: Promise<unknown>): Promise<number> {
  let [peak, over] = [rssBytes(pid), false];
  const end = during.finally(() => {
    over = true;
  });
  while (!over) {
    await pause(10);
    peak = Math.max(peak, rssBytes(pid));
  }
  await end;
  return peak;
}

async function outcomes(http: string): Promise<Record<string, number>> {
  const text = await scrape(http);
  const found = text.matchAll(/^pitwarden_requests_total\{pool="octets",outcome="(\w+)"\} (\d+)$/gm);
  const counts = [...found].map(([, outcome = '', count]) => [outcome, Number(count)] as const);
  return Object.fromEntries(counts.filter(([, count]) => count > 0));
}

/** A caller that sends Execute calls and reads none of the answers, so that their HTTP/2 windows stay closed. */
function deafCaller(socket: string): { session: ClientHttp2Session; execute(args: unknown, more?: object): void } {
  const session = dialHttp2(socket);
  const method = clients.Execution.service['Execute'];
  return {
    session,
    execute: (args, more = {}) => {
      const payload = Buffer.from(JSON.stringify(args));
      const message = method?.requestSerialize({ pool: 'octets', command: 'blob', payload, ...more });
      const call = session.request({ ...grpcHeaders, ':path': executePath });
      call.on('error', () => undefined);
      call.end(framed(message ?? Buffer.alloc(0)));
    },
  };
}

const executePath = '/pitwarden.v1.Execution/Execute';
const grpcHeaders = { ':method': 'POST', 'content-type': 'application/grpc', te: 'trailers' };

function dialHttp2(path: string): ClientHttp2Session {
  // In MB. Node resets the calls of a session that holds more memory, including what it still has to send.
  const maxSessionMemory = 1_000;
  const session = connectHttp2('http://localhost', {
    createConnection: () => createConnection(path),
    maxSessionMemory,
  });
  session.on('error', () => undefined);
  return session;
}

/** Sends the header of a message of `bytes` bytes, and only a part of its body. */
function beginCall(session: ClientHttp2Session, path: string, bytes: number, sentBytes: number): void {
  const call = session.request({ ...grpcHeaders, ':path': path });
  call.on('error', () => undefined);
  call.write(framed(Buffer.alloc(bytes)).subarray(0, sentBytes));
}

function framed(message: Buffer, isCompressed = false): Buffer {
  const head = Buffer.alloc(5, isCompressed ? 1 : 0);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

test('answers that a caller leaves unread are limited to message.max_unread_bytes, and other callers are served', async () => {
  const { socket, http, pid } = await start('size: 1', 'message: { max_unread_bytes: 8MiB }');
  const deaf = deafCaller(socket);
  const client = connect(socket);
  const before = rssBytes(pid);
  const total = 400;
  for (let i = 0; i < total; i += 1) deaf.execute([mib]);
  const ended = until(
    async () => Object.values(await outcomes(http)).reduce((sum, count) => sum + count, 0) === total,
    'all to have an end',
    () => outcomes(http),
  );
  expect((await peakRss(pid, ended)) - before).toBeLessThan(200 * mib);
  expect(await outcomes(http)).toEqual({ ok: 8, resource_exhausted: total - 8 });
  expect((await client.execute('octets', 'made')).value).toBe(0);
  // Closing its connection drops its unread answers.
  deaf.session.destroy();
  const again = deafCaller(socket);
  again.execute([mib]);
  await until(async () => (await outcomes(http))['ok'] === 10, 'a new connection to be served');
  again.session.destroy();
  client.close();
});

test('a stream whose caller pauses makes its generator wait, and continues from there', async () => {
  const { socket, pid } = await start('concurrency: 2');
  const client = connect(socket);
  const before = rssBytes(pid);
  const [count, size] = [512, 256 * 1024];
  const stream = client.stream('octets', 'blobs', [count, size]);
  const numbers: number[] = [];
  await pauseAfterFirst<{ payload: Buffer }>(stream, ({ payload }) => numbers.push(payload.readUInt32BE()));
  const waits = untilSettled(async () => Number((await client.execute('octets', 'made')).value));
  expect((await peakRss(pid, waits)) - before).toBeLessThan(64 * mib);
  expect(await waits).toBeLessThan(64);
  await readToEnd(stream);
  expect(numbers).toEqual([...Array(count).keys()]);
  client.close();
});

test('small chunks make the generator wait too, because their overhead is counted', async () => {
  const { socket } = await start('concurrency: 2');
  const client = connect(socket);
  const count = 200_000;
  const stream = client.stream('octets', 'blobs', [count, 4]);
  let taken = 0;
  await pauseAfterFirst(stream, () => {
    taken += 1;
  });
  const made = await untilSettled(async () => Number((await client.execute('octets', 'made')).value));
  expect(made).toBeLessThan(20_000);
  await readToEnd(stream);
  expect(taken).toBe(count);
  client.close();
});

test('an unread Submit stream makes its generator wait, and plain results beyond the limit are refused', async () => {
  const { socket, pid, exited, signal } = await start(
    'concurrency: 4, drain: { timeout: 1s }',
    'message: { max_unread_bytes: 32MiB }',
  );
  const client = connect(socket);
  const execution = new clients.Execution(`unix:${socket}`, credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
  });
  const before = rssBytes(pid);
  const call = (execution as unknown as { Submit(): ClientDuplexStream<object, SubmitResponse> }).Submit();
  const item = (request_id: string, command: string, args: unknown) => ({
    request: { pool: 'octets', command, payload: Buffer.from(JSON.stringify(args)), request_id },
  });
  const bytes = new Map<string, number>();
  const [plain, chunks] = [300, 512];
  call.write({ items: [item('stream', 'blobs', [chunks, 256 * 1024])] });
  await pauseAfterFirst<SubmitResponse>(call, ({ results }) => {
    for (const { request_id, response, error } of results) {
      const got = error?.code === 8 ? -1 : (response?.payload.length ?? Number.NaN);
      bytes.set(request_id, (bytes.get(request_id) ?? 0) + got);
    }
  });
  call.write({ items: Array.from({ length: plain }, (_, i) => item(`${i}`, 'blob', [mib])) });
  const worked = until(async () => (await agent?.workers())?.[0]?.requests_completed === plain, 'all blobs to be made');
  expect((await peakRss(pid, worked)) - before).toBeLessThan(200 * mib);
  const made = await client.execute('octets', 'made');
  expect(made.value).toBeLessThan(64);
  await readToEnd(call, () => bytes.get('stream') === chunks * 256 * 1024 && bytes.size === plain + 1);
  const refused = [...bytes.values()].filter((sum) => sum === -1).length;
  const answered = [...bytes.values()].filter((sum) => sum === mib).length;
  expect(answered).toBeGreaterThan(8);
  expect(refused + answered).toBe(plain);
  // A caller that reads nothing does not delay the end.
  call.pause();
  signal('SIGTERM');
  expect(await exited).toMatchObject({ code: 0 });
  execution.close();
  client.close();
});

/**
 * The memory limit from ARCHITECTURE.md in MiB. The largest message of a link is message.max_bytes, but at least 64
 * MiB.
 */
function mostMib(budgetMib: number, maxMib: number, workers: number, connections: number): number {
  return 2 * budgetMib + 2 * (Math.max(maxMib, 64) + 2) + 2.25 * workers + connections / 8 + 240;
}

test("all kinds of load at once keep the agent's memory within the limit in ARCHITECTURE.md", async () => {
  const [budgetMib, maxMib, leavers, strangers, callers] = [96, 32, 16, 16, 6];
  const app = `app: octets:app, python: ${python}, cwd: ${root}test/fixtures`;
  const patient = 'heartbeat: { interval: 10s, timeout: 100s }, request: { timeout: 300s, keep: { for: 300s } }';
  agent = await spawnAgent(
    `octets: { ${app}, size: 1, concurrency: 4 }\nfrozen: { ${app}, size: 4, ${patient} }`,
    `message: { budget: ${budgetMib}MiB, max_bytes: ${maxMib}MiB }`,
  );
  const { socket, http, pid, dir } = agent;
  await untilReady(agent, 'octets', 1);
  const frozen = await untilReady(agent, 'frozen', 4);
  const sessions: ClientHttp2Session[] = [];
  const load = (async () => {
    // Workers that read nothing while a large payload is written to each; callers of waiting requests leave.
    for (const worker of frozen) process.kill(worker.pid, 'SIGSTOP');
    const leaving = Array.from({ length: leavers }, () => deafCaller(socket));
    for (const [index, { execute }] of leaving.entries()) {
      const bytes = (index < frozen.length ? 6 : 1) * mib;
      execute([], { pool: 'frozen', command: 'size_of', request_id: `left ${index}`, ...octets(bytes) });
      await until(async () => (await held(http, 'frozen')) === index + 1, 'the next to be taken');
    }
    for (const { session } of leaving) session.destroy();
    // Processes that claim to be workers, and never finish their first frames.
    for (let i = 0; i < strangers; i += 1) {
      const session = dialHttp2(join(dir, 'run/link/link.sock'));
      for (let call = 0; call < 4; call += 1) {
        beginCall(session, '/pitwarden.v1.WorkerLink/Attach', mib / 16, mib / 16 - 1024);
      }
      sessions.push(session);
    }
    // Unread answers, unfinished bodies, and compressed messages.
    const message = clients.Execution.service['Execute']?.requestSerialize({
      ...{ pool: 'octets', command: 'size_of' },
      ...octets(16 * mib),
    });
    const folded = framed(gzipSync(message ?? ''), true);
    let ended = 0;
    for (let i = 0; i < callers; i += 1) {
      const { session, execute } = deafCaller(socket);
      sessions.push(session);
      execute([8 * mib]);
      for (let call = 0; call < 2; call += 1) beginCall(session, executePath, 4 * mib, 3 * mib);
      for (let call = 0; call < 10; call += 1) {
        const stream = session.request({ ...grpcHeaders, ':path': executePath, 'grpc-encoding': 'gzip' });
        stream.on('error', () => undefined);
        stream.on('response', () => {
          ended += 1;
        });
        stream.end(folded);
      }
    }
    const answered = async (): Promise<number> =>
      Object.values(await outcomes(http)).reduce((sum, count) => sum + count, 0);
    await until(
      async () => ended === 10 * callers && (await answered()) >= callers,
      'all whole calls to have an end',
      async () => [ended, await answered()],
    );
  })();
  const peak = await peakRss(pid, load);
  const metrics = await scrape(http);
  const used = (side: string) =>
    Number(new RegExp(`budget_used_bytes\\{side="${side}"\\} (\\d+)`).exec(metrics)?.[1]) / mib;
  // At least the requests whose callers left, and the payloads being written to workers that read nothing.
  expect(used('callers')).toBeGreaterThan(4 * 6 + 12);
  expect(used('workers')).toBeGreaterThan(4 * 6);
  expect(used('unproven')).toBeGreaterThan(strangers / 16);
  expect(Number(/budget_refused_total\{side="callers"\} (\d+)/.exec(metrics)?.[1])).toBeGreaterThan(0);
  expect(peak / mib).toBeLessThan(mostMib(budgetMib, maxMib, 5, leavers + strangers + callers));
  for (const session of sessions) session.destroy();
  const client = connect(socket);
  expect((await client.execute('octets', 'size_of', undefined, octets(mib))).value).toBe(mib);
  client.close();
});

test('if a worker reads nothing, requests beyond the queue limits are refused, and accepted ones are answered later', async () => {
  const keys = 'queue: { max_requests: 1000, max_bytes: 32MiB }, heartbeat: { interval: 10s, timeout: 60s }';
  const { socket, pid, http } = await start(keys);
  const client = connect(socket);
  const [worker] = (await agent?.workers('octets')) ?? [];
  await client.execute('octets', 'size_of', undefined, octets(1));
  const before = rssBytes(pid);
  process.kill(worker?.pid ?? 0, 'SIGSTOP');
  const codes: (number | string)[] = [];
  const calls: Promise<number>[] = [];
  // A few at a time, because data that is still arriving counts towards its connection.
  const sent = (async () => {
    for (let total = 10; total <= 300; total += 10) {
      for (let i = 0; i < 10; i += 1) {
        calls.push(
          client.execute('octets', 'size_of', undefined, octets(mib)).then(
            ({ value }) => codes.push(Number(value)),
            (error) => codes.push(`code ${error.code}`),
          ),
        );
      }
      await until(async () => codes.length + (await held(http)) === total, 'each to be refused or kept');
    }
  })();
  expect((await peakRss(pid, sent)) - before).toBeLessThan(150 * mib);
  expect(codes.length).toBeGreaterThan(250);
  process.kill(worker?.pid ?? 0, 'SIGCONT');
  await Promise.all(calls);
  expect(new Set(codes)).toEqual(new Set(['code 8', mib]));
  expect(codes.filter((code) => code === mib).length).toBeGreaterThanOrEqual(32);
  client.close();
});

test('a message that is too large is refused with the limit in either direction, and others are served', async () => {
  const { socket } = await start('size: 1', 'message: { max_bytes: 1MiB }');
  const client = connect(socket);
  await expect(client.execute('octets', 'size_of', undefined, octets(2 * mib))).rejects.toMatchObject({
    code: 8,
    message: expect.stringMatching(/larger than max \(\d+ vs\.? 1114112\)/),
  });
  await expect(client.execute('octets', 'size_of', undefined, octets(mib + 1))).rejects.toMatchObject({
    code: 8,
    message: `payload: expected at most ${mib} bytes (message.max_bytes), got ${mib + 1}`,
  });
  await expect(client.execute('octets', 'blob', [2 * mib])).rejects.toMatchObject({
    code: 8,
    message: `result: expected at most ${mib} bytes (message.max_bytes), got ${2 * mib}`,
  });
  const stream = client.stream('octets', 'blobs', [3, 2 * mib]);
  const refused = await new Promise<ServiceError>((resolve) => stream.on('data', () => undefined).on('error', resolve));
  expect(refused).toMatchObject({
    code: 8,
    details: `result: expected at most ${mib} bytes (message.max_bytes), got ${2 * mib}`,
  });
  expect((await client.execute('octets', 'size_of', undefined, octets(mib))).value).toBe(mib);
  client.close();
});

interface SubmitResponse {
  readonly results: readonly {
    readonly request_id: string;
    readonly response?: { readonly payload: Buffer };
    readonly error?: { readonly code: number };
  }[];
}

function octets(size: number): object {
  return { payload: Buffer.alloc(size), content_type: 'application/octet-stream' };
}

/** Requests that the agent has accepted and not answered. */
async function held(http: string, pool = 'octets'): Promise<number> {
  const text = await scrape(http);
  const counts = [...text.matchAll(/^pitwarden_(?:queue_depth|in_flight)\{pool="(\w+)"\} (\d+)$/gm)];
  return counts.reduce((sum, [, name, count]) => sum + (name === pool ? Number(count) : 0), 0);
}

/** grpc-js's clients buffer a stream until it was read once; only then do they slow down the sender. */
async function pauseAfterFirst<T>(stream: Readable, take: (message: T) => void): Promise<void> {
  stream.on('data', take);
  await new Promise((resolve, reject) => stream.once('data', resolve).once('error', reject));
  stream.pause();
}

async function readToEnd(stream: Readable, isAll?: () => boolean): Promise<void> {
  stream.resume();
  if (isAll !== undefined) return void (await until(isAll, 'everything to come'));
  await new Promise((resolve, reject) => stream.once('end', resolve).once('error', reject));
}

/** Waits for a number that has grown, and has then not changed for half a second. */
async function untilSettled(read: () => Promise<number>): Promise<number> {
  let seen: number[] = [];
  await until(
    async () => {
      seen = [...seen, await read()].slice(-20);
      return seen.length === 20 && seen[0] === seen[19] && seen[0] !== 0;
    },
    'a number to settle',
    () => seen,
  );
  return seen[0] ?? 0;
}
