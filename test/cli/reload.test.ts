import { expect, test } from 'vitest';
import { createReload } from '../../src/cli/reload.ts';
import type { Config, Loaded } from '../../src/config/load.ts';

const named = (path: string) => ({ ok: true, config: { path } as Config }) satisfies Loaded;

function reloading(load: () => Promise<Loaded>, timeoutMs = 60_000, apply?: (config: Config) => void) {
  const outcomes: string[] = [];
  const reload = createReload({
    load,
    apply: apply ?? ((config) => outcomes.push(`took ${config.path}`)),
    refuse: (message) => outcomes.push(message),
    timeoutMs,
  });
  return { reload, outcomes };
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
    'the file could not be read within 20 ms',
    'the file could not be read: the previous read is still waiting for the disk',
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
  expect(outcomes).toEqual(['the reload failed: the working directory is gone', 'took a']);
  const applying = reloading(load, 1_000, () => {
    throw new Error('no');
  });
  await applying.reload();
  expect(applying.outcomes).toEqual(['the reload failed: no']);
});
