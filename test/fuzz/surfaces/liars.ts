import { existsSync, rmSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { pause } from '../../../bench/processes.ts';
import type { FuzzTarget } from '../agent.ts';
import type { Bytes } from '../bytes.ts';
import { editedBytes, mutated } from '../bytes.ts';
import { extremes, messages, methodsOf, wirePieces } from '../messages.ts';
import type { Surface } from './surface.ts';

/** Workers that attach in order and then lie (liar.py), while callers have requests in them. */
interface Lies {
  /** Put behind the bytes of the true hello. */
  readonly hello: Bytes;
  /** Well-formed: the link goes on after them. */
  readonly frames: readonly Bytes[];
  readonly lastFrame: Bytes;
  readonly ending: 'serve' | 'exit';
  readonly requests: number;
}

const toldWithinMs = 8_000;
const requestWithinMs = 1_500;

const [attach] = methodsOf('pitwarden.v1.WorkerLink');
if (attach === undefined) throw new Error('proto: expected a method of WorkerLink');
const wellFormed = messages(attach.request).map((valid): Bytes => ({ valid, edits: [] }));
const frame = mutated(messages(attach.request), wirePieces);
const truth: fc.Arbitrary<Bytes> = fc.constant({ valid: '', edits: [] });

/** Each field of a frame at each of its extremes: thrown in each round. After results and `leaving` less is listened to. */
const known: Lies = {
  ...{ hello: { valid: '', edits: [] }, lastFrame: { valid: '', edits: [] }, ending: 'serve', requests: 4 },
  frames: extremes(attach.request, ['results', 'leaving']).map((valid) => ({ valid, edits: [] })),
};

export const liars: Surface<Lies> = {
  name: 'liars',
  cases: fc.record({
    hello: fc.oneof({ weight: 3, arbitrary: truth }, frame),
    frames: fc.array(wellFormed, { minLength: 20, maxLength: 40, size: 'max' }),
    lastFrame: frame,
    ending: fc.constantFrom('serve' as const, 'exit' as const),
    requests: fc.integer({ min: 0, max: 6 }),
  }),
  most: 3,
  harmsProbe: false,
  restarts: false,
  attack: async (target, cases) => {
    for (const lies of [known, ...cases]) await lie(target, lies);
    rmSync(target.lies, { force: true });
    await replaceLiar(target);
    return undefined;
  },
};

async function lie(target: FuzzTarget, { hello, frames, lastFrame, ending, requests }: Lies): Promise<void> {
  const told = `${target.lies}.told`;
  rmSync(told, { force: true });
  const base64 = (bytes: Bytes): string => editedBytes(bytes).toString('base64');
  writeFileSync(
    target.lies,
    JSON.stringify({ hello: base64(hello), frames: [...frames, lastFrame].map(base64), ending }),
  );
  await replaceLiar(target);
  const calls = Array.from({ length: requests }, (_, index) =>
    target.execute('liar', index % 2 === 0 ? 'wait' : 'echo', requestWithinMs).catch(() => ''),
  );
  const endsAtMs = performance.now() + toldWithinMs;
  while (!existsSync(told) && performance.now() < endsAtMs) await pause(20);
  await Promise.all(calls);
}

async function replaceLiar(target: FuzzTarget): Promise<void> {
  for (const { pid } of await target.workers('liar')) {
    try {
      if (pid > 1) process.kill(pid, 'SIGKILL');
    } catch {
      // It has gone already.
    }
  }
}
