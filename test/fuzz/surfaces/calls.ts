import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2';
import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import { deflateSync, gzipSync } from 'node:zlib';
import fc from 'fast-check';
import type { FuzzTarget } from '../agent.ts';
import type { Bytes } from '../bytes.ts';
import { editedBytes, mutated } from '../bytes.ts';
import { manyItems, messages, methodsOf, reflection, wirePieces } from '../messages.ts';
import type { Surface } from './surface.ts';

/** Calls of every method of every service, with messages that are nearly right. */
export interface FuzzCall {
  readonly path: string;
  readonly messages: readonly Bytes[];
  readonly encoding: string;
  /** The first byte of each message: 1 says compressed, whatever is true. */
  readonly flag: number;
  readonly compress: boolean;
  /** Added to each declared length. */
  readonly lengthError: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly ending: 'end' | 'cancel' | 'stay silent';
  readonly ownConnection: boolean;
}

const answerWithinMs = 1_000;
/** A caller that leaves before its megabytes have arrived tries nothing. */
const bombAnswerWithinMs = 10_000;
const atOnce = 16;
const bombItems = 4_000_000;

function callsOf(path: string, valid: fc.Arbitrary<string>): fc.Arbitrary<FuzzCall> {
  const mostly = <T>(usual: T, ...others: T[]): fc.Arbitrary<T> =>
    fc.oneof({ weight: 6, arbitrary: fc.constant(usual) }, ...others.map((other) => fc.constant(other)));
  const compress = fc.integer({ min: 0, max: 3 }).map((drawn) => drawn === 0);
  return compress.chain((compresses) =>
    fc.record({
      path: fc.constant(path),
      messages: fc.array(mutated(valid, wirePieces), { maxLength: 3 }),
      encoding: compresses ? mostly('gzip', 'deflate') : mostly('identity', 'gzip', 'zstd', 'a'.repeat(5_000)),
      flag: compresses ? fc.constant(1) : mostly(0, 1, 2, 255),
      compress: fc.constant(compresses),
      lengthError: mostly(0, 1, -1, 5, 2 ** 31, 2 ** 32 - 1),
      headers: mostly<Readonly<Record<string, string>>>(
        {},
        { 'grpc-timeout': '0n' },
        { 'grpc-timeout': '99999999H' },
        { 'grpc-timeout': '-1S' },
        { 'content-type': 'text/html' },
        { 'x-bin': '!!!' },
        { 'x-long': 'x'.repeat(7_000) },
      ),
      ending: mostly('end' as const, 'cancel' as const, 'stay silent' as const),
      ownConnection: mostly(false, true),
    }),
  );
}

const services = ['pitwarden.v1.Execution', 'pitwarden.v1.Control', 'pitwarden.v1.WorkerLink', 'grpc.health.v1.Health'];
const typed = services.flatMap(methodsOf).map(({ path, request }) => {
  // Where a message can be large most is to be found.
  const weight = /Execution|WorkerLink/.test(path) ? 6 : 1;
  return { weight, arbitrary: callsOf(path, messages(request)) };
});
const reflected = reflection.paths.map((path) => callsOf(path, fc.constantFrom(...reflection.requests)));
const unknown = callsOf('/pitwarden.v1.Execution/Nothing', fc.constant(''));

export const calls: Surface<FuzzCall> = {
  name: 'calls',
  cases: fc.oneof(...typed, ...reflected, unknown),
  most: 150,
  harmsProbe: false,
  restarts: false,
  attack: (target, cases) => throwAll(target, cases, answerWithinMs),
};

async function throwAll(target: FuzzTarget, cases: readonly FuzzCall[], withinMs: number): Promise<undefined> {
  const shared = new Map<string, ClientHttp2Session>();
  const sessions: ClientHttp2Session[] = [];
  const open = (path: string): ClientHttp2Session => {
    const session = connectHttp2('http://localhost', { createConnection: () => connect(path) });
    session.on('error', () => undefined);
    sessions.push(session);
    return session;
  };
  const sessionOf = (call: FuzzCall): ClientHttp2Session => {
    const path = call.path.includes('WorkerLink') ? target.link : target.socket;
    if (call.ownConnection) return open(path);
    const before = shared.get(path);
    if (before !== undefined && !before.destroyed && !before.closed) return before;
    const made = open(path);
    shared.set(path, made);
    return made;
  };
  const queue = [...cases];
  const work = async (): Promise<void> => {
    for (let call = queue.shift(); call !== undefined; call = queue.shift())
      await sendCall(sessionOf(call), call, withinMs);
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  for (const session of sessions) session.destroy();
}

/** Each decompresses to less than a message may have, all of them at once to several times the budget. */
const expanding: Bytes = { valid: '', edits: [{ do: 'insert', at: 0, text: '\0', times: 40_000_000 }] };
const expandingAtOnce: readonly FuzzCall[] = Array.from({ length: atOnce }, () => ({
  ...{ path: '/pitwarden.v1.Execution/Execute', messages: [expanding], encoding: 'gzip', flag: 1, compress: true },
  ...{ lengthError: 0, headers: {}, ending: 'end', ownConnection: true },
}));

/** Of each repeated field of each request as many empty items as a few megabytes hold, plain and compressed. */
export const bombs: Surface<readonly FuzzCall[]> = {
  ...{ name: 'bombs', most: 1, harmsProbe: false, restarts: false },
  cases: fc.constant([
    ...expandingAtOnce,
    ...services.flatMap(methodsOf).flatMap(({ path, request }) =>
      manyItems(request, bombItems).flatMap(({ head, item, times: itemTimes }) =>
        [false, true].map(
          (compress): FuzzCall => ({
            path,
            messages: [{ valid: head, edits: [{ do: 'insert', at: 1, text: item, times: itemTimes }] }],
            ...{ encoding: compress ? 'gzip' : 'identity', flag: compress ? 1 : 0, compress, lengthError: 0 },
            ...{ headers: {}, ending: 'end', ownConnection: true },
          }),
        ),
      ),
    ),
  ]),
  attack: (target, [all = []]) => throwAll(target, all, bombAnswerWithinMs),
};

/** Settles when the call has ended; after so long it is given up. */
export function sendCall(session: ClientHttp2Session, call: FuzzCall, withinMs = answerWithinMs): Promise<void> {
  return new Promise((resolve) => {
    const encoding: Record<string, string> = call.encoding === 'identity' ? {} : { 'grpc-encoding': call.encoding };
    let stream: ClientHttp2Stream;
    try {
      const usual = { ':method': 'POST', ':path': call.path, te: 'trailers', 'content-type': 'application/grpc' };
      stream = session.request({ ...usual, ...encoding, ...call.headers });
    } catch {
      // The agent has ended this connection.
      return resolve();
    }
    const late = setTimeout(() => stream.destroy(), withinMs);
    stream.on('error', () => undefined);
    stream.on('close', () => {
      clearTimeout(late);
      resolve();
    });
    stream.resume();
    for (const message of call.messages) stream.write(framed(message, call));
    if (call.ending === 'end') stream.end();
    if (call.ending === 'cancel') setTimeout(() => stream.close(8), 5);
  });
}

function framed(message: Bytes, { flag, compress, encoding, lengthError }: FuzzCall): Buffer {
  const body = compress ? compressed(message, encoding) : editedBytes(message);
  const head = Buffer.alloc(5);
  head[0] = flag;
  head.writeUInt32BE((body.length + lengthError) >>> 0, 1);
  return Buffer.concat([head, body]);
}

/** Of messages that are sent more than once. */
const gzipped = new WeakMap<Bytes, Buffer>();

function compressed(message: Bytes, encoding: string): Buffer {
  if (encoding === 'deflate') return deflateSync(editedBytes(message));
  const made = gzipped.get(message) ?? gzipSync(editedBytes(message));
  gzipped.set(message, made);
  return made;
}
