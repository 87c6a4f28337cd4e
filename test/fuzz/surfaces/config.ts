import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { pause } from '../../../bench/processes.ts';
import type { FuzzTarget } from '../agent.ts';
import type { Bytes } from '../bytes.ts';
import { editedBytes, mutated } from '../bytes.ts';
import type { Surface } from './surface.ts';

/** What stands at the config's path when SIGHUP comes. */
interface Reload {
  readonly file: 'text' | 'FIFO' | 'folder' | 'nothing' | 'link to itself' | '/dev/zero' | '9 MB of holes';
  /** Added to the valid config's end, in place of which it is where `alone`. */
  readonly text: Bytes;
  readonly alone: boolean;
  /** The next SIGHUP comes so much later. */
  readonly pauseMs: number;
}

/** Of a configuration that is taken nothing is printed. */
const refusedWithinMs = 400;

const texts = [
  '',
  'node: { id: other }\n',
  '  more: { app: "fuzz_app:app", size: 0, env: { A: "{slot}" } }\n',
  '  more: &a { app: "x:y", size: 0, start: { warm_up: x, warm_up_args: { a: *a } } }\n',
  '  __proto__: { app: "x:y" }\n',
  '  p: { app: "x:y" }\n',
  'pools: {}\n',
  'pools: { a: { app: "x:y", size: 0, max_age: -1s, queue: { max_requests: 1e99 } } }\n',
];
const pieces = [
  '[',
  '{',
  'a: ',
  '  ',
  '&a [*a]',
  '*a',
  '<<: *a\n',
  '!!binary |\n',
  '? ',
  '\t',
  '%',
  '"',
  '# x\n',
  '---\n',
];

export const config: Surface<Reload> = {
  name: 'config',
  cases: fc.record({
    file: fc.oneof(
      { weight: 12, arbitrary: fc.constant('text' as const) },
      ...(['FIFO', 'folder', 'nothing', 'link to itself', '/dev/zero', '9 MB of holes'] as const).map((file) =>
        fc.constant(file),
      ),
    ),
    text: mutated(fc.constantFrom(...texts), pieces),
    alone: fc.boolean(),
    pauseMs: fc.constantFrom(0, 50, 300, 300),
  }),
  most: 10,
  harmsProbe: true,
  restarts: false,
  attack: async (target, cases) => {
    // As they are, one after the other: of what is drawn, a file may be replaced before it is read.
    for (const valid of texts) {
      place(target, { file: 'text', text: { valid, edits: [] }, alone: false, pauseMs: 0 });
      await reload(target, refusedWithinMs);
    }
    for (const each of cases) {
      place(target, each);
      await reload(target, each.pauseMs);
    }
    place(target, null);
    return valid(target);
  },
};

async function reload(target: FuzzTarget, pauseMs: number): Promise<void> {
  if (target.dead() !== undefined) return;
  const printed = target.printed();
  const endsAtMs = performance.now() + pauseMs;
  process.kill(target.pid(), 'SIGHUP');
  while (performance.now() < endsAtMs && !target.outputSince(printed).includes('config_refused')) await pause(10);
}

/** The valid file again, and that the agent takes it: of a file that cannot be read it learns within 10 s. */
async function valid(target: FuzzTarget): Promise<string | undefined> {
  const endsAtMs = performance.now() + 25_000;
  for (;;) {
    if (target.dead() !== undefined) return undefined;
    process.kill(target.pid(), 'SIGHUP');
    await pause(200);
    const error = await target
      .control<{ config_error: string }>('GetNode')
      .then(({ config_error: text }) => text)
      .catch((reason: Error) => reason.message);
    if (error === '') return undefined;
    if (performance.now() > endsAtMs) return `a valid config: expected it to be taken within 25 s, got: ${error}`;
  }
}

/** `null`: the valid one. */
function place({ config: path, configText }: FuzzTarget, reload: Reload | null): void {
  rmSync(path, { recursive: true, force: true });
  const text = reload === null ? '' : editedBytes(reload.text).subarray(0, 9_000_000).toString('latin1');
  switch (reload?.file) {
    case 'FIFO':
      return void execFileSync('mkfifo', [path]);
    case 'folder':
      return void mkdirSync(path);
    case 'nothing':
      return;
    case 'link to itself':
      return symlinkSync(path, path);
    case '/dev/zero':
      return symlinkSync('/dev/zero', path);
    case '9 MB of holes':
      writeFileSync(path, '');
      return truncateSync(path, 9_000_000);
    default:
      return writeFileSync(path, reload?.alone === true ? text : configText + text);
  }
}
