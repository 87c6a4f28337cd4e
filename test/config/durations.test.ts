import { describe, expect, test } from 'vitest';
import { allKeys } from '../../src/config/all-keys.ts';
import type { PoolConfig } from '../../src/domain/config.ts';
import { linkLimitsOf } from '../../src/workers/attach.ts';
import { calmBehaviour } from '../simulate/draw.ts';
import { SimulatedHost } from '../simulate/host.ts';
import { createRandom } from '../simulate/random.ts';
import { createTrace } from '../simulate/trace.ts';
import { loadWith, nameOf } from './loading.ts';

// Every duration at its extremes is either refused, or makes a pool that starts, serves, idles and stops.

const durations = allKeys().filter(({ unit }) => unit.startsWith('duration'));
const never = Number.POSITIVE_INFINITY;

/** Keys that must change too, because a rule of the schema compares them with the changed one. */
function withCompanions(name: string, value: string): Record<string, string> {
  const last = name.split('.').at(-1) ?? '';
  if (name.includes('heartbeat')) {
    const companions = {
      interval: ['interval', 'timeout', 'busy_limit'],
      timeout: ['interval', 'timeout', 'busy_limit'],
    };
    const keys = companions[last as 'interval'] ?? ['interval', 'timeout', 'busy_limit'];
    return Object.fromEntries(keys.map((key) => [`pools.*.heartbeat.${key}`, value]));
  }
  if (name.includes('backoff')) return { 'pools.*.restart.backoff.min': value, 'pools.*.restart.backoff.max': value };
  return name.endsWith('max_age') ? { [name]: value, 'pools.*.recycle.min_lifetime': 'off' } : { [name]: value };
}

test('allKeys finds the durations of the schema', () => {
  expect(durations.length).toBeGreaterThan(12);
});

describe.each(durations.map((key) => [nameOf(key), key.unit]))('the duration %s', (name, unit) => {
  const [, least = '', most = ''] = /^duration, (\S+) to (\w+)/.exec(unit) ?? [];
  test.each(['0ms', '1ms', least, '30d', '365d', most])(
    'set to %s is refused or makes a pool that lives through all its phases',
    async (value) => {
      const config = await loadWith(withCompanions(name, value));
      if (typeof config === 'string') expect(config).toMatch(/: expected from \w+ to \w+, got \w+$/m);
      else await live(config.node.pools.get('p'));
    },
  );
});

async function live(pool: PoolConfig | undefined): Promise<void> {
  if (pool === undefined) throw new Error('expected a pool');
  expect(Math.max(...Object.values(linkLimitsOf(pool, 0)))).toBeLessThan(2 ** 32);
  const random = createRandom(1);
  const { keep, killAfterMs } = pool.request;
  const traits = { keepMs: keep.forMs, killAfterMs, isExtreme: true, isManaged: false };
  const config = { nodeId: 'n', memoryFloorBytes: 0, pools: new Map([['p', pool]]) };
  const host = new SimulatedHost(random, createTrace(), traits, config, () => ({
    ...calmBehaviour(random),
    attachMs: 200,
  }));
  const { callers } = host;
  callers.isCalm = true;
  host.start();
  const isReady = (): boolean => [...(host.agent?.state.workers.values() ?? [])].some(({ phase }) => phase === 'ready');
  expect(await host.run(10_000, isReady), 'a worker comes up').toBe(true);
  const wish = { pool: 'p', command: 'short', sessionId: '', hasCallerId: false, idempotent: false, streams: false };
  callers.ask({ ...wish, payload: '', timeoutMs: never });
  expect(await host.run(10_000, () => callers.open.size === 0), 'a request ends').toBe(true);
  expect(callers.ended).toEqual(new Map([['answered', 1]]));
  const { steps, nowMs } = host;
  await host.run(30_000);
  // Ten pings a second with their pongs are the busiest rest.
  expect((host.steps - steps) / (host.nowMs - nowMs), 'wake-ups a millisecond').toBeLessThan(0.06);
  host.tell({ type: 'shutdown', how: 'drain' });
  expect(await host.run(10_000, () => host.finished === 1), 'it goes').toBe(true);
}
