import { expect, test } from 'vitest';
import type { ExitRecord } from '../src/domain/action.ts';
import { createExits } from '../src/exits.ts';

const ended = (pool: string, exitedAtMs: number): ExitRecord => ({
  workerId: `${pool}-${exitedAtMs}`,
  pool,
  slot: 0,
  generation: 1,
  pid: 1,
  reason: 'ttl',
  exit: { code: 0, signal: null },
  message: '',
  unplanned: false,
  startedAtMs: 0,
  spawnedAtMs: 0,
  readyAtMs: 0,
  exitedAtMs,
  inFlight: 0,
  completed: 0,
  failed: 0,
  memoryBytes: 0,
  cpuMs: 0,
});

test('the last 200 of each pool are kept, newest first', () => {
  const exits = createExits();
  for (let at = 1; at <= 250; at += 1) exits.keep(ended('a', at));
  exits.keep(ended('b', 100));
  expect(exits.list('a')).toHaveLength(200);
  expect(exits.list('a')[0]?.exitedAtMs).toBe(250);
  expect(exits.list('')).toHaveLength(201);
  expect(exits.list('nowhere')).toEqual([]);
});

test('pools that come and go are not kept for ever', () => {
  const exits = createExits();
  for (let pool = 0; pool < 300; pool += 1) exits.keep(ended(`p${pool}`, pool));
  expect(exits.list('')).toHaveLength(100);
});
