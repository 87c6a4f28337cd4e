import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { ChannelOptions, ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import { credentials, makeClientConstructor } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { services } from '../../src/grpc/proto.ts';
import { needs } from '../needs.ts';
import type { TestAgent } from './agent.ts';
import { examples, python, root, spawnAgent, until, untilReady } from './agent.ts';
import { connect, Failure } from './grpc.ts';
import { scrape } from './http.ts';

// Two nodes with the pool `text`, and clients that balance over them by the service config that docs/health.md shows.

const run = promisify(execFile);
const service = 'pitwarden.pool.text';
const [, serviceConfig = ''] = /```json\n(.*?)```/s.exec(readFileSync(join(root, 'docs/health.md'), 'utf8')) ?? [];
const HealthClient = makeClientConstructor(services.Health, 'grpc.health.v1.Health');

interface TestNode {
  readonly agent: TestAgent;
  readonly address: string;
  /** Its only worker of the pool. */
  readonly workerId: string;
}

let nodes: readonly [TestNode, TestNode];
const text = `text: { app: text:app, python: ${python}, cwd: ${examples} }`;

beforeAll(async () => {
  nodes = await Promise.all([startNode(), startNode()]);
});

afterAll(() => Promise.all(nodes?.map(({ agent }) => agent.stop()) ?? []));

async function startNode(): Promise<TestNode> {
  const agent = await spawnAgent(text, 'listen: 127.0.0.1:0');
  const [worker] = await untilReady(agent, 'text', 1);
  const [, address = ''] = /gRPC at (127\.0\.0\.1:\d+)/.exec(agent.output()) ?? [];
  return { agent, address, workerId: worker?.worker_id ?? '' };
}

/** A client that calls without a pause. */
interface Caller {
  /** The workers that answered its calls, in order; for a failed call what it says. */
  readonly answeredBy: readonly string[];
  failures(): readonly string[];
}

/** Starts a client program that writes a line for each call: the answer in base64, or `failed` and why. */
function startProgram(file: string, args: readonly string[]): Caller {
  const method = services.Execution['Execute'];
  if (method === undefined) throw new Error('proto: expected Execution to have Execute');
  const payload = Buffer.from('["a b a"]');
  const request = method.requestSerialize({ pool: 'text', command: 'count_words', payload }).toString('base64');
  const addresses = nodes.map(({ address }) => address).join();
  const child = spawn(file, [...args, addresses, serviceConfig, method.path, request]);
  const answeredBy: string[] = [];
  const failed: string[] = [];
  let rest = '';
  child.stdout.on('data', (data) => {
    const lines = `${rest}${data}`.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const isAnswer = /^[A-Za-z0-9+/]+=*$/.test(line);
      const answer = isAnswer ? method.responseDeserialize(Buffer.from(line, 'base64')) : { worker_id: line };
      answeredBy.push((answer as { worker_id: string }).worker_id);
      if (!isAnswer) failed.push(line);
    }
  });
  child.stderr.on('data', (data) => failed.push(`wrote: ${data}`));
  const exited = new Promise((resolve) => child.on('exit', resolve));
  onTestFinished(async () => {
    child.stdin.end();
    await exited;
  });
  return { answeredBy, failures: () => failed };
}

/** What docs/health.md advises for @grpc/grpc-js: a Watch of each node, and calls in turn to those that serve. */
function startNodeJs(): Caller {
  const answeredBy: string[] = [];
  const failed: string[] = [];
  const each = nodes.map(({ address }) => {
    const client = connect(address);
    const health = new HealthClient(address, credentials.createInsecure());
    const watched = health['Watch']?.call(health, { service }) as unknown as ClientReadableStream<{ status: string }>;
    const close = (): void => {
      watched.cancel();
      health.close();
      client.close();
    };
    const node = { client, status: '', close };
    watched.on('data', ({ status }) => {
      node.status = status;
    });
    watched.on('error', () => {
      node.status = '';
    });
    return node;
  });
  let isOver = false;
  const callOnce = async (turn: number, attempts: number): Promise<string> => {
    const serving = each.filter(({ status }) => status === 'SERVING');
    const node = serving[turn % serving.length];
    if (node === undefined) throw new Error('no node serves');
    try {
      return (await node.client.execute('text', 'count_words', ['a b a'])).workerId;
    } catch (error) {
      const mayRepeat = error instanceof Failure && error.code === 14 && error.told?.may_have_begun === false;
      if (!mayRepeat || attempts === 0) throw error;
      return callOnce(turn + 1, attempts - 1);
    }
  };
  const calls = (async () => {
    await until(() => each.every(({ status }) => status === 'SERVING'), 'both nodes to serve');
    for (let turn = 0; !isOver; turn += 1) {
      const answer = await callOnce(turn, 3).catch((error: Error) => {
        if (!isOver) failed.push(error.message);
        return error.message;
      });
      answeredBy.push(answer);
      await delay(10);
    }
  })();
  onTestFinished(async () => {
    isOver = true;
    await calls;
    for (const { close } of each) close();
  });
  return { answeredBy, failures: () => failed };
}

/** The workers that answered the last twenty calls, once these began after now. */
async function untilAnsweredBy({ answeredBy, failures }: Caller, expected: readonly TestNode[]): Promise<void> {
  const wanted = expected.map(({ workerId }) => workerId).sort();
  const since = answeredBy.length;
  const last = () => [...new Set(answeredBy.slice(Math.max(since, answeredBy.length - 20)))].sort();
  await until(
    () => failures().length > 0 || (answeredBy.length >= since + 20 && last().join() === wanted.join()),
    `the last 20 calls to be answered by ${wanted.join(' and ')}`,
    last,
  );
  expect(failures()).toEqual([]);
}

async function refusedCalls({ agent }: TestNode): Promise<number> {
  const series = /^pitwarden_requests_total\{.*outcome="unavailable".*\} (\d+)$/m;
  return Number(series.exec(await scrape(agent.http))?.[1] ?? 0);
}

/** Drains one node while it is called, then the other, then none. */
async function drainInTurn(caller: Caller): Promise<void> {
  const [first, second] = nodes;
  onTestFinished(async () => {
    for (const { agent } of nodes) await agent.cli('resume', 'text');
  });
  await untilAnsweredBy(caller, nodes);
  for (const [drained, other] of [
    [first, second],
    [second, first],
  ] as const) {
    expect((await drained.agent.cli('drain', 'text')).code).toBe(0);
    await untilAnsweredBy(caller, [other]);
    const from = caller.answeredBy.length;
    const refused = await refusedCalls(drained);
    await until(() => caller.answeredBy.length > from + 50, 'fifty more calls');
    expect(new Set(caller.answeredBy.slice(from))).toEqual(new Set([other.workerId]));
    // The client does not try the drained node first and then repeat the call at the other.
    expect(await refusedCalls(drained)).toBe(refused);
    expect((await drained.agent.cli('resume', 'text')).code).toBe(0);
    await untilAnsweredBy(caller, nodes);
  }
  expect(caller.failures()).toEqual([]);
}

test('Python clients with round_robin and health checking leave out a node whose pool drains, without a failed call', async () => {
  await drainInTurn(startProgram(python, [join(root, 'test/e2e/health_client.py')]));
});

test('Node clients that watch the health of each node leave out one whose pool drains, without a failed call', async () => {
  await drainInTurn(startNodeJs());
});

const goFolder = join(root, 'test/e2e/health-client');
const go = ['/usr/local/go/bin/go'].find(existsSync) ?? 'go';
const whyNoGo = await run(go, ['mod', 'download'], { cwd: goFolder, timeout: 120_000 }).then(
  () => '',
  (error: Error) => error.message.split('\n').filter(Boolean).at(-1) ?? 'unknown',
);

test('Go clients with round_robin and health checking leave out a node whose pool drains, without a failed call', {
  ...needs('go', whyNoGo === '', whyNoGo),
  timeout: 300_000,
}, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pw-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const program = join(folder, 'client');
  await run(go, ['build', '-buildvcs=false', '-o', program, '.'], { cwd: goFolder });
  await drainInTurn(startProgram(program, []));
});

test('@grpc/grpc-js does not check health by itself, as docs/health.md says', async () => {
  const [first] = nodes;
  onTestFinished(async () => void (await first.agent.cli('resume', 'text')));
  const { methodConfig: _, ...withoutRetries } = JSON.parse(serviceConfig) as Record<string, unknown>;
  const options: ChannelOptions = { 'grpc.service_config': JSON.stringify(withoutRetries) };
  const client = connect(`ipv4:${nodes.map(({ address }) => address).join()}`, options);
  onTestFinished(() => client.close());
  const callOnce = () => client.execute('text', 'count_words', ['a']);
  const answeredBy = new Set<string>();
  await until(async () => answeredBy.add((await callOnce()).workerId).size === 2, 'both nodes to answer');
  await first.agent.cli('drain', 'text');
  const health = new HealthClient(first.address, credentials.createInsecure());
  onTestFinished(() => health.close());
  const status = () =>
    new Promise((resolve) => {
      health['Check']?.call(health, { service }, (error: ServiceError | null, answer?: { status: string }) =>
        resolve(error?.message ?? answer?.status),
      );
    });
  await until(async () => (await status()) === 'NOT_SERVING', 'the first node to report that it drains');
  const failures: unknown[] = [];
  for (let call = 0; call < 10; call += 1) await callOnce().catch((error) => failures.push(error));
  expect(failures.length).toBeGreaterThan(0);
  expect(failures).toEqual(
    failures.map(() => expect.objectContaining({ code: 14, message: expect.stringMatching('is draining') })),
  );
});

test('the health of a pool follows its workers, and reloads that add and remove it', async () => {
  const agent = await spawnAgent(text);
  const health = new HealthClient(`unix:${agent.socket}`, credentials.createInsecure());
  const seen: string[] = [];
  let ended: ServiceError | undefined;
  const watch = health['Watch']?.call(health, { service: 'pitwarden.pool.later' });
  const watched = watch as unknown as ClientReadableStream<{ status: string }>;
  watched.on('data', ({ status }) => seen.push(status));
  watched.on('error', (error: ServiceError) => {
    ended = error;
  });
  onTestFinished(async () => {
    health.close();
    await agent.stop();
  });
  const untilSeen = (...statuses: string[]) =>
    until(
      () => seen.slice(-statuses.length).join() === statuses.join(),
      `the statuses ${statuses}`,
      () => seen,
    );
  await untilReady(agent, 'text', 1);
  await untilSeen('SERVICE_UNKNOWN');
  agent.config(`${text}\n${text.replace('text:', 'later:')}`);
  agent.signal('SIGHUP');
  await untilSeen('SERVICE_UNKNOWN', 'NOT_SERVING', 'SERVING');
  const [worker] = await untilReady(agent, 'later', 1);
  process.kill(worker?.pid ?? 0, 'SIGKILL');
  await untilSeen('SERVING', 'NOT_SERVING', 'SERVING');
  agent.config(text);
  agent.signal('SIGHUP');
  await untilSeen('SERVING', 'NOT_SERVING', 'SERVICE_UNKNOWN');
  agent.config(`${text}\n${text.replace('text:', 'later:')}`);
  agent.signal('SIGHUP');
  await untilSeen('SERVICE_UNKNOWN', 'NOT_SERVING', 'SERVING');
  agent.signal('SIGTERM');
  await until(() => ended, 'Watch to end');
  // It is ended in order, and not cut off with its connection after seconds.
  expect(ended).toMatchObject({ code: 14, details: 'the agent is shutting down; retry with its successor' });
  expect(seen.at(-1)).not.toBe('SERVING');
});
