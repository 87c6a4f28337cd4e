import type { ClientReadableStream } from '@grpc/grpc-js';
import { afterEach, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, python, spawnAgent, until, untilReady } from './agent.ts';
import type { PoolReportView, ReportView, TestClient } from './grpc.ts';
import { connect } from './grpc.ts';

let agent: TestAgent;
let client: TestClient;
let stream: ClientReadableStream<ReportView> | undefined;

afterEach(async () => {
  stream?.cancel();
  client?.close();
  await agent?.stop();
});

const pings = 'heartbeat: { interval: 200ms, timeout: 600ms, max_missed: 2, busy_limit: 20s }';

/** Starts an agent with the pool `faults` of two workers, and keeps every beat of a Report stream. */
async function startReported(intervalMs = 1_000): Promise<ReportView[]> {
  agent = await spawnAgent(`faults: { app: faults:app, python: ${python}, cwd: ${examples}, size: 2, ${pings} }`);
  client = connect(agent.socket);
  await untilReady(agent, 'faults', 2);
  const beats: ReportView[] = [];
  stream = client.report({ interval_ms: intervalMs });
  stream.on('data', (beat: ReportView) => beats.push(beat));
  stream.on('error', () => undefined);
  await untilBeat(beats, (pool) => pool.workers_ready === 2 && pool.memory_bytes > 0);
  return beats;
}

/** The first beat, of those so far and those to come, whose pool is like this. */
function untilBeat(beats: readonly ReportView[], wanted: (pool: PoolReportView) => boolean): Promise<ReportView> {
  return until(
    () => beats.find(({ pools: [pool] }) => pool !== undefined && wanted(pool)),
    `a beat with ${wanted}`,
    () => beats.slice(-3),
  );
}

test('a worker that stops answering is reported slow, and then as one that hung and was replaced', async () => {
  const beats = await startReported();
  const [worker] = await agent.workers('faults');
  process.kill(worker?.pid ?? 0, 'SIGSTOP');
  const slow = await untilBeat(beats, (pool) => pool.workers_slow === 1);
  expect(slow.pools[0]).toMatchObject({ workers_ready: 2, workers_well: 1, workers_hung: 0, exits: [] });
  expect(slow.pools[0]?.missed_pings_max).toBeGreaterThanOrEqual(1);
  const ended = await untilBeat(beats, ({ exits }) => exits.some(({ reason }) => reason === 'hung'));
  expect(ended.pools[0]?.exits).toEqual([{ reason: 'hung', count: 1 }]);
  expect(ended.revision).toBeGreaterThan(slow.revision);
  await until(
    () => beats.at(-1)?.pools[0]?.workers_well === 2,
    'a replacement',
    () => beats.at(-1),
  );
  expect(beats.at(-1)?.pools[0]).toMatchObject({ size: 2, workers_hung: 0, missed_pings_max: 0 });
});

test('a worker that is busy in C is reported busy, with the evidence of what the pool does', async () => {
  const beats = await startReported(200);
  expect(beats.at(-1)?.pools[0]?.last_evidence_age_ms).toBeUndefined();
  await client.execute('faults', 'sleep', [0.01]);
  const first = await untilBeat(beats, (pool) => pool.requests_completed === 1);
  expect(first.pools[0]?.last_evidence_age_ms).toBeGreaterThanOrEqual(0);
  expect(first.pools[0]?.last_evidence_age_ms).toBeLessThan(5_000);
  const held = client.execute('faults', 'hold_gil', [4]);
  const { pools } = await untilBeat(beats, (pool) => pool.workers_busy === 1);
  expect(pools[0]).toMatchObject({ workers_well: 1, workers_hung: 0, in_flight: 1, queued: 0, exits: [] });
  // Two pings were sent meanwhile, and the second is overdue.
  expect(pools[0]?.oldest_running_ms).toBeGreaterThan(600);
  expect(pools[0]?.last_evidence_age_ms).toBeGreaterThan(600);
  await held;
  const after = await untilBeat(beats, (pool) => pool.requests_completed === 2);
  expect(after.pools[0]).toMatchObject({ in_flight: 0, requests_failed: 0, oldest_running_ms: 0 });
  await until(
    () => beats.at(-1)?.pools[0]?.workers_well === 2,
    'it to be well again',
    () => beats.at(-1),
  );
});

test('requests that wait, and how long, are reported', async () => {
  const beats = await startReported(200);
  const capacity = beats.at(-1)?.pools[0]?.capacity ?? 0;
  expect(capacity).toBeGreaterThanOrEqual(2);
  const all = Array.from({ length: capacity + 3 }, () => client.execute('faults', 'sleep', [1.5]));
  const { pools } = await untilBeat(beats, (pool) => pool.queued === 3 && pool.oldest_queued_ms > 500);
  expect(pools[0]).toMatchObject({ in_flight: capacity });
  expect(pools[0]?.oldest_running_ms).toBeGreaterThan(500);
  await Promise.all(all);
  await untilBeat(beats, (pool) => pool.requests_completed === capacity + 3);
});

test('beats come at their interval and after changes, in one sequence, and say how late the agent was', async () => {
  const beats = await startReported(500);
  const node = await client.control<{ agent_id: string; node_id: string }>('GetNode');
  await until(() => beats.length >= 6, 'beats of a quiet node');
  for (const [index, beat] of beats.entries()) {
    expect(beat).toMatchObject({ agent_id: node.agent_id, node_id: node.node_id, sequence: index + 1, more: false });
    expect(beat.boot_id).toMatch(/^[0-9a-f-]{36}$/);
    expect(beat.at_ms - (beats[index - 1]?.at_ms ?? 0)).toBeGreaterThan(0);
  }
  agent.signal('SIGSTOP');
  const stoppedAt = Date.now();
  await until(() => Date.now() - stoppedAt > 2_000, '2 s to pass');
  agent.signal('SIGCONT');
  const late = await until(() => beats.find(({ loop_lag_ms }) => loop_lag_ms > 1_000), 'a late beat');
  expect(late.loop_lag_ms).toBeLessThan(10_000);
  await agent.cli('drain', 'faults');
  await untilBeat(beats, ({ open }) => !open);
  expect(beats.at(-1)?.revision).toBeGreaterThan(beats[0]?.revision ?? 0);
});
