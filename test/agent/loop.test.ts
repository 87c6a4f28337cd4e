import { expect, test, vi } from 'vitest';
import { createLoop, loopHealth } from '../../src/agent/loop.ts';
import type { Facts } from '../../src/domain/event.ts';
import { nodeConfig, poolConfig } from '../domain/simulation.ts';

/** A loop whose clock only moves by `advance`, and whose steps can be made to fail. */
function scene(act: () => void = () => undefined) {
  let nowMs = 1_000;
  let failing = false;
  const facts = (): Facts => ({
    nowMs,
    random: () => {
      if (failing) throw new Error('as asked for');
      return 0.5;
    },
    counters: () => undefined,
    queued: () => 0,
  });
  const loop = createLoop(() => nowMs);
  loop.start(facts, act);
  return {
    loop,
    advance: (ms: number) => {
      nowMs += ms;
    },
    fail: (now: boolean) => {
      failing = now;
    },
  };
}

test('a loop with nothing to do is never late', () => {
  const { loop, advance } = scene();
  loop.applyNow({ type: 'resume-node' });
  advance(60_000);
  expect(loop.lateMs()).toBe(0);
  loop.close();
});

test('a loop is late by how long its oldest event has waited', async () => {
  const { loop, advance } = scene();
  loop.enqueue({ type: 'resume-node' });
  advance(5_000);
  loop.enqueue({ type: 'resume-node' });
  expect(loop.lateMs()).toBe(5_000);
  await new Promise((resolve) => setImmediate(resolve));
  expect(loop.lateMs()).toBe(0);
  loop.close();
});

test('a loop whose steps throw is late until a step succeeds', () => {
  const { loop, advance, fail } = scene();
  const config = { type: 'config', config: nodeConfig(poolConfig()) } as const;
  fail(true);
  expect(() => loop.applyNow(config)).toThrow('as asked for');
  advance(2_000);
  expect(() => loop.applyNow(config)).toThrow('as asked for');
  advance(2_000);
  expect(loop.lateMs()).toBe(4_000);
  expect(loopHealth(loop.lateMs())).toEqual({
    ok: false,
    text: 'the loop is 4000 ms late: the agent makes no progress',
  });
  fail(false);
  loop.applyNow(config);
  expect(loop.lateMs()).toBe(0);
  expect(loopHealth(loop.lateMs())).toEqual({ ok: true, text: 'ok' });
  loop.close();
});

test('when applyNow throws, the queued events are still handled', async () => {
  const { loop, fail } = scene();
  loop.applyNow({ type: 'config', config: nodeConfig(poolConfig({ size: 0 })) });
  loop.enqueue({ type: 'drain-node' });
  fail(true);
  const wish = { type: 'config', config: nodeConfig(poolConfig({ name: 'other', size: 3 })) } as const;
  expect(() => loop.applyNow(wish)).toThrow('as asked for');
  expect(loop.state().node.phase).toBe('running');
  await new Promise((resolve) => setImmediate(resolve));
  expect(loop.state().node.phase).toBe('draining');
  expect([...loop.state().pools.keys()]).toEqual(['p']);
  loop.close();
});

test('a loop keeps waking up when an effect throws', async () => {
  let acted = 0;
  const { loop, advance } = scene(() => {
    acted += 1;
    if (acted === 1) throw new Error('as asked for');
  });
  const pool = poolConfig({ size: 1, start: { ...poolConfig().start, timeoutMs: 20 } });
  expect(() => loop.applyNow({ type: 'config', config: nodeConfig(pool) })).toThrow('as asked for');
  advance(60_000);
  await vi.waitFor(() => expect(acted).toBeGreaterThan(1), { timeout: 5_000 });
  loop.close();
});
