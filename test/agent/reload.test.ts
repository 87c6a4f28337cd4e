import { expect, test } from 'vitest';
import { createReload } from '../../src/agent/reload.ts';
import type { Config, Loaded } from '../../src/config/load.ts';
import type { Plan } from '../../src/domain/plan.ts';

const named = (path: string) => ({ ok: true, config: { path } as Config }) satisfies Loaded;

const plan: Plan = { pools: [], node: [] };

function reloading(load: () => Promise<Loaded>, timeoutMs = 60_000, apply?: (config: Config) => void) {
  const outcomes: string[] = [];
  const reloads = createReload({
    file: 'f',
    load,
    plan: () => ({ plan, restartNeeded: [] }),
    apply: apply ?? ((config) => outcomes.push(`took ${config.path}`)),
    refuse: (message) => outcomes.push(message),
    timeoutMs,
  });
  return { reload: reloads.apply, plans: reloads.plan, outcomes };
}

test('reloads requested during a reload are combined into one, which reads the file again', async () => {
  let reads = 0;
  let first = (_: Loaded): void => undefined;
  const { reload, outcomes } = reloading(() => {
    reads += 1;
    if (reads > 1) return Promise.resolve(named('second'));
    return new Promise((resolve) => {
      first = resolve;
    });
  });
  const asked = [reload(), reload(), reload()];
  first(named('first'));
  await Promise.all(asked);
  expect(outcomes).toEqual(['took first', 'took second']);
});

test('a file that takes too long is refused, and not read again until the first read has ended', async () => {
  let reads = 0;
  let come = (_: Loaded): void => undefined;
  const { reload, outcomes } = reloading(() => {
    reads += 1;
    return new Promise((resolve) => {
      come = resolve;
    });
  }, 20);
  await reload();
  await reload();
  expect(outcomes).toEqual([
    'f: the file could not be read within 20 ms',
    'f: the file could not be read: the previous read is still waiting for the disk',
  ]);
  expect(reads).toBe(1);
  come(named('late'));
  await new Promise((done) => setImmediate(done));
  const again = reload();
  come(named('fresh'));
  await again;
  // The late result is as old as the refused reload, so it is not used.
  expect(outcomes.slice(2)).toEqual(['took fresh']);
});

test('any error refuses the reload, and the next one works', async () => {
  let fails = true;
  const load = async () => {
    if (fails) throw new Error('the working directory is gone');
    return named('a');
  };
  const { reload, outcomes } = reloading(load);
  await reload();
  fails = false;
  await reload();
  expect(outcomes).toEqual(['f: the reload failed: the working directory is gone', 'took a']);
  const applying = reloading(load, 1_000, () => {
    throw new Error('no');
  });
  await applying.reload();
  expect(applying.outcomes).toEqual(['f: the reload failed: no']);
});

test('a plan reads the file and neither applies nor refuses it', async () => {
  let loaded: Loaded = named('a');
  const { plans, outcomes } = reloading(() => Promise.resolve(loaded));
  expect(await plans()).toEqual({ ok: true, plan, restartNeeded: [] });
  const problems = [{ file: 'f', line: 2, column: 3, path: 'pools', message: 'expected another' }];
  loaded = { ok: false, problems };
  expect(await plans()).toEqual({ ok: false, problems });
  expect(outcomes).toEqual([]);
});

test('a plan that is asked for while a reload waits shares its read, and both learn the same', async () => {
  let reads = 0;
  let first = (_: Loaded): void => undefined;
  const { reload, plans, outcomes } = reloading(() => {
    reads += 1;
    if (reads > 1) return Promise.resolve(named('second'));
    return new Promise((resolve) => {
      first = resolve;
    });
  });
  const asked = [plans(), reload(), plans()];
  first(named('first'));
  const answers = await Promise.all(asked);
  expect(reads).toBe(2);
  expect(outcomes).toEqual(['took second']);
  expect(answers.every(({ ok }) => ok)).toBe(true);
});
