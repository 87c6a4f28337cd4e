import { expect, test } from 'vitest';
import type { Evidence, KeptExit } from '../../src/domain/evidence.ts';
import { createExits } from '../../src/telemetry/exit-history.ts';

const ended = (pool: string, exitedAtMs: number): KeptExit => ({
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
  start: null,
  account: null,
  evidence: null,
});

test('the last 200 exits of each pool are kept, newest first', () => {
  const exits = createExits();
  for (let at = 1; at <= 250; at += 1) exits.keep(ended('a', at));
  exits.keep(ended('b', 100));
  expect(exits.list('a')).toHaveLength(200);
  expect(exits.list('a')[0]?.exitedAtMs).toBe(250);
  expect(exits.list('')).toHaveLength(201);
  expect(exits.list('nowhere')).toEqual([]);
});

test('the exits of removed pools are dropped eventually', () => {
  const exits = createExits();
  for (let pool = 0; pool < 300; pool += 1) exits.keep(ended(`p${pool}`, pool));
  expect(exits.list('')).toHaveLength(100);
});

test('evidence is kept for the last 20 exits only', () => {
  const exits = createExits();
  const evidence: Evidence = {
    ...{
      takenAtMs: 1,
      because: '',
      state: 'S',
      threads: [],
      stacks: '',
      stacksMissing: '',
      requests: [],
      lastLines: [],
    },
  };
  for (let at = 1; at <= 50; at += 1) exits.keep({ ...ended('a', at), evidence: at % 2 === 0 ? evidence : null });
  const kept = exits.list('a').filter((exit) => exit.evidence !== null);
  expect(kept).toHaveLength(20);
  expect(kept.at(-1)?.exitedAtMs).toBe(12);
  expect(exits.list('a')).toHaveLength(50);
});
