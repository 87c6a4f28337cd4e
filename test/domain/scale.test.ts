import { expect, test } from 'vitest';
import type { Event } from '../../src/domain/event.ts';
import { initialState } from '../../src/domain/state.ts';
import { step } from '../../src/domain/step.ts';
import { nodeConfig, poolConfig } from './simulation.ts';

/** Starts a pool with one worker, scales it, and returns the median duration of the steps. */
function medianStepMs(size: number): number {
  let state = initialState();
  let nowMs = 1_000;
  const tookMs: number[] = [];
  const coming: Event[] = [];
  const decide = (event: Event): void => {
    nowMs += 1;
    const facts = { nowMs, random: Math.random, counters: () => undefined, queued: () => 0 };
    const beganMs = performance.now();
    const next = step(state, [event], facts);
    tookMs.push(performance.now() - beganMs);
    state = next.state;
    for (const action of next.actions) {
      if (action.type !== 'spawn') continue;
      const workerId = action.worker.id;
      const start = { interpreterMs: 0, importMs: 0, hooksMs: 0 };
      const hello = { commands: [], sdkVersion: '', pythonVersion: '', start };
      coming.push({ type: 'spawned', workerId, pid: 1_000 + tookMs.length }, {
        type: 'attached',
        workerId,
        hello,
      } as Event);
    }
  };
  const pool = poolConfig({ start: { ...poolConfig().start, parallel: 50 } });
  decide({ type: 'config', config: nodeConfig(pool) });
  decide({ type: 'scale', pool: 'p', size });
  for (let event = coming.shift(); event !== undefined; event = coming.shift()) decide(event);
  const ready = [...state.workers.values()].filter(({ phase }) => phase === 'ready');
  expect(ready).toHaveLength(size);
  return tookMs.sort((a, b) => a - b)[Math.floor(tookMs.length / 2)] ?? Number.NaN;
}

test('the duration of a step is linear in the number of workers, even while most slots are empty', () => {
  medianStepMs(250);
  const small = medianStepMs(250);
  const large = medianStepMs(1_000);
  // Linear time gives 4; counting the pool for each empty slot gives 16.
  expect(large / small).toBeLessThan(8);
});
