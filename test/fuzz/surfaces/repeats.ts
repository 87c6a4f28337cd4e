import type { ClientHttp2Session } from 'node:http2';
import { connect as connectHttp2 } from 'node:http2';
import type { NetConnectOpts } from 'node:net';
import { connect } from 'node:net';
import fc from 'fast-check';
import { pause } from '../../../bench/processes.ts';
import type { FuzzTarget, Use } from '../agent.ts';
import { encoded } from '../messages.ts';
import type { FuzzCall } from './calls.ts';
import { sendCall } from './calls.ts';
import type { Surface } from './surface.ts';

/**
 * Requests of many kinds, each so often that what one of them leaves behind is seen: half a kilobyte of memory, or a
 * descriptor. Each kind is measured alone, so that the fault names it.
 */

/** More of them than what a kind leaves behind the first time: code that V8 compiles, buffers that grow. */
const warmUpTimes = 32;
const usualTimes = 300;
const atOnce = 16;
/** A kind that takes longer is slow, which the probe judges: the round ends with it. */
const slowMs = 15_000;
const leftMostBytes = 512;
const descriptorsMore = 8;
/** What is left must grow each time: a cache fills up, a leak goes on. */
const goes = 4;
/** After the last go what is left counts only when it is still there: a sweep closes connections after a protocol error. */
const soonMs = 1_000;
const atLastMs = 15_000;
const answerWithinMs = 1_000;

interface Kind {
  readonly name: string;
  readonly times: number;
  once(target: FuzzTarget, sessions: Sessions): Promise<void>;
}

interface Sessions {
  api(): ClientHttp2Session;
  link(): ClientHttp2Session;
}

const usual: Omit<FuzzCall, 'path' | 'messages'> = {
  ...{ encoding: 'identity', flag: 0, compress: false, lengthError: 0, headers: {}, ending: 'end' },
  ownConnection: false,
};

function call(
  name: string,
  path: string,
  messages: readonly string[],
  more: Partial<FuzzCall> = {},
  times = usualTimes,
): Kind {
  const described: FuzzCall = {
    ...{ ...usual, ...more, path: `/${path}` },
    messages: messages.map((valid) => ({ valid, edits: [] })),
  };
  const isLink = path.includes('WorkerLink');
  return {
    name,
    times,
    once: async (target, sessions) => {
      if (!described.ownConnection) return sendCall(isLink ? sessions.link() : sessions.api(), described);
      const session = openSession(isLink ? target.link : target.socket);
      await sendCall(session, described);
      session.destroy();
    },
  };
}

const execution = 'pitwarden.v1.Execution/Execute';
const control = 'pitwarden.v1.Control/';
const request = (fields: object): string[] => [
  encoded('ExecuteRequest', { pool: 'p', command: 'echo', payload: Buffer.from('[]'), ...fields }),
];
const item = (fields: object): string[] => [
  encoded('SubmitRequest', {
    items: [{ request: { pool: 'p', command: 'echo', payload: Buffer.from('[]'), ...fields } }],
  }),
];

/** Connects, says this, and closes when an answer comes. */
function raw(name: string, text: string, address: (target: FuzzTarget) => NetConnectOpts, times = usualTimes): Kind {
  return {
    name,
    times,
    once: (target) =>
      new Promise((resolve) => {
        const socket = connect(address(target));
        const late = setTimeout(() => socket.destroy(), answerWithinMs);
        socket.on('error', () => undefined);
        socket.once('data', () => socket.destroy());
        socket.once('close', () => {
          clearTimeout(late);
          resolve();
        });
        socket.write(Buffer.from(text, 'latin1'));
      }),
  };
}

const http = (name: string, text: string, times?: number): Kind =>
  raw(name, text, (target) => ({ host: '127.0.0.1', port: target.httpPort() }), times);
const local = { Host: 'localhost' };
const httpRequest = (line: string, headers: Readonly<Record<string, string>> = local): string =>
  `${line} HTTP/1.1\r\n${Object.entries(headers)
    .map(([key, value]) => `${key}: ${value}\r\n`)
    .join('')}\r\n`;
const preface = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0';

const callKinds: readonly Kind[] = [
  call('Execute', execution, request({})),
  call('Execute, named', execution, request({ request_id: 'always the same' })),
  call('Execute of a command that raises', execution, request({ command: 'wait', payload: Buffer.from('["x"]') })),
  call('Execute of an unknown pool', execution, request({ pool: 'nobody' })),
  call('Execute of an unknown command', execution, request({ command: 'nobody' })),
  call('Execute of a content type that is none', execution, request({ content_type: 'text/html' })),
  call('Execute with too long an id', execution, request({ request_id: 'x'.repeat(1_000) })),
  call('Execute without a message', execution, []),
  call('Execute of a malformed message', execution, ['\x0a\xff\xff\xff\xff\x0f']),
  call('Execute of what is not compressed', execution, request({}), { encoding: 'gzip', flag: 1 }),
  call('Execute of a message that is too large', execution, request({}), { lengthError: 2 ** 31 }),
  call('Execute whose deadline has passed', execution, request({}), { headers: { 'grpc-timeout': '0n' } }),
  call('Execute, cancelled', execution, request({ command: 'wait' }), { ending: 'cancel' }),
  call('Execute on a connection of its own', execution, request({ pool: 'nobody' }), { ownConnection: true }),
  call('ExecuteStream', 'pitwarden.v1.Execution/ExecuteStream', request({ command: 'count' })),
  call('Submit', 'pitwarden.v1.Execution/Submit', item({ request_id: 'a' })),
  call('Submit without an id', 'pitwarden.v1.Execution/Submit', item({})),
  call('Submit, cancelled', 'pitwarden.v1.Execution/Submit', item({ request_id: 'a', command: 'wait' }), {
    ending: 'cancel',
  }),
  call('an unknown method', 'pitwarden.v1.Execution/Nothing', ['']),
  call('GetWorker of nobody', `${control}GetWorker`, [encoded('GetWorkerRequest', { worker_id: 'nobody' })]),
  call('ListPools', `${control}ListPools`, ['']),
  call('ScalePool of nobody', `${control}ScalePool`, [encoded('ScalePoolRequest', { pool: 'nobody', size: 1 })]),
  // A snapshot takes the agent over a millisecond, and a caller that cancels does not wait for it: they would queue up.
  call('Watch, cancelled', `${control}Watch`, [''], { ending: 'cancel' }, 100),
  call('health of nobody', 'grpc.health.v1.Health/Check', ['\x0a\x01x']),
  call('a hello of nobody', 'pitwarden.v1.WorkerLink/Attach', [
    encoded('WorkerFrame', { hello: { protocol: 1, worker_id: 'nobody', token: 'x' } }),
  ]),
  call('a hello of nobody on a connection of its own', 'pitwarden.v1.WorkerLink/Attach', [encoded('WorkerFrame', {})], {
    ownConnection: true,
  }),
];

const connectionKinds: readonly Kind[] = [
  raw('garbage on the API', 'garbage\r\n\r\n', ({ socket }) => ({ path: socket })),
  raw('garbage on the link', 'garbage\r\n\r\n', ({ link }) => ({ path: link })),
  raw('a frame of HTTP/2 that is too large', `${preface}\xff\xff\xff\0\0\0\0\0\x01`, ({ socket }) => ({
    path: socket,
  })),
  raw('DATA of a call that there is not', `${preface}\0\0\x01\0\0\0\0\0\x07x`, ({ socket }) => ({ path: socket })),
  // To render them takes the agent some 10 ms.
  http('/metrics', httpRequest('GET /metrics'), 60),
  http('/healthz', httpRequest('GET /healthz')),
  http('HTTP, unknown path', httpRequest('GET /nothing')),
  http('HTTP, POST', httpRequest('POST /metrics')),
  http('HTTP, another host', httpRequest('GET /metrics', { Host: 'evil.example' })),
  http('HTTP, malformed', 'GET\r\n\r\n'),
  http('HTTP, upgrade', httpRequest('GET /healthz', { ...local, Connection: 'upgrade', Upgrade: 'h2c' })),
  http('HTTP, CONNECT', httpRequest('CONNECT localhost:1')),
  http('HTTP, expect', httpRequest('GET /metrics', { ...local, Expect: 'a miracle' })),
];

export const repeatedCalls = repeat(callKinds);
export const repeatedConnections = repeat(connectionKinds);

function repeat(kinds: readonly Kind[]): Surface<readonly string[]> {
  return {
    name: 'repeats',
    // Nothing to draw, and nothing to make smaller: the fault names the kind.
    cases: fc.constant(kinds.map(({ name }) => name)),
    most: 1,
    harmsProbe: false,
    restarts: false,
    attack: async (target, [names = []]) => {
      for (const kind of kinds) if (!(await flood(target, kind, warmUpTimes))) return undefined;
      for (const name of names) {
        const kind = kinds.find((each) => each.name === name);
        const left = kind === undefined ? '' : await leftBy(target, kind);
        if (left !== '') return left;
      }
      return undefined;
    },
  };
}

/** What a kind leaves behind each time; empty: nothing. Undefined: it is too slow, or has ended the agent. */
async function leftBy(target: FuzzTarget, kind: Kind): Promise<string | undefined> {
  let before = await target.use();
  const left: Use[] = [];
  for (let go = 1; go <= goes; go += 1) {
    if (!(await flood(target, kind, kind.times))) return undefined;
    const now = await useOnceItIsBack(target, before, kind, go < goes ? soonMs : atLastMs);
    const more = { heldMib: now.heldMib - before.heldMib, descriptors: now.descriptors - before.descriptors };
    if (isLittle(more, kind)) return '';
    left.push(more);
    before = now;
  }
  const bytes = left.map(({ heldMib }) => Math.round((heldMib * 2 ** 20) / kind.times));
  return (
    `a leak: ${kind.name}: expected ${kind.times} of them to leave at most ${leftMostBytes} bytes each and ` +
    `${descriptorsMore} descriptors in all, got, one time after the other, ${bytes.join(', ')} bytes each and ` +
    `${left.map(({ descriptors }) => descriptors).join(', ')} descriptors`
  );
}

function isLittle({ heldMib, descriptors }: Use, { times }: Kind): boolean {
  return heldMib * 2 ** 20 <= leftMostBytes * times && descriptors <= descriptorsMore;
}

async function useOnceItIsBack(target: FuzzTarget, before: Use, kind: Kind, withinMs: number): Promise<Use> {
  const endsAtMs = performance.now() + withinMs;
  for (;;) {
    const now = await target.use();
    const more = { heldMib: now.heldMib - before.heldMib, descriptors: now.descriptors - before.descriptors };
    if (isLittle(more, kind) || performance.now() > endsAtMs) return now;
    await pause(200);
  }
}

/** False: it took too long, or the agent has ended. */
async function flood(target: FuzzTarget, kind: Kind, times: number): Promise<boolean> {
  const endsAtMs = performance.now() + slowMs;
  const opened = new Map<string, ClientHttp2Session>();
  const session = (path: string): ClientHttp2Session => {
    const before = opened.get(path);
    if (before !== undefined && !before.destroyed && !before.closed) return before;
    before?.destroy();
    const made = openSession(path);
    opened.set(path, made);
    return made;
  };
  const sessions = { api: () => session(target.socket), link: () => session(target.link) };
  let left = times;
  const goesOn = (): boolean => target.dead() === undefined && performance.now() < endsAtMs;
  const work = async (): Promise<void> => {
    for (; left > 0 && goesOn(); left -= 1) await kind.once(target, sessions);
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  for (const each of opened.values()) each.destroy();
  return goesOn();
}

function openSession(path: string): ClientHttp2Session {
  const session = connectHttp2('http://localhost', { createConnection: () => connect(path) });
  session.on('error', () => undefined);
  return session;
}
