import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { initialState } from '../src/domain/state.ts';
import { createMetrics } from '../src/metrics.ts';

function scene() {
  const metrics = createMetrics({
    state: () => initialState(),
    nowMs: () => 0,
    poolNumbers: () => ({ queued: 0, queuedBytes: 0, inFlight: 0, capacity: 0 }),
    oldestRequest: () => ({ queuedMs: 0, runningMs: 0 }),
  });
  return { metrics, body: async () => (await metrics.render()).body };
}

const outcome = { pool: 'text', code: 0, refused: false, queuedMs: 0, ranMs: 0 };

test('a pool’s labelled series start at 0, so that the first of a kind is an increase', async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  const before = await body();
  for (const line of [
    'pitwarden_worker_starts_total{pool="text"} 0',
    'pitwarden_worker_exits_total{pool="text",reason="signal"} 0',
    'pitwarden_worker_exits_total{pool="text",reason="hung"} 0',
    'pitwarden_worker_recycles_total{pool="text",reason="memory"} 0',
    'pitwarden_pings_missed_total{pool="text"} 0',
    'pitwarden_requests_total{pool="text",outcome="ok"} 0',
    'pitwarden_requests_total{pool="text",outcome="unavailable"} 0',
    'pitwarden_request_seconds_count{pool="text"} 0',
    'pitwarden_queue_seconds_count{pool="text"} 0',
    'pitwarden_ping_round_trip_seconds_count{pool="text"} 0',
  ])
    expect(before).toContain(`${line}\n`);
  metrics.record({ kind: 'worker_exited', atMs: 0, pool: 'text', reason: 'signal', message: '' });
  metrics.outcome({ ...outcome, code: 14 });
  const after = await body();
  expect(after).toContain('pitwarden_worker_exits_total{pool="text",reason="signal"} 1\n');
  expect(after).toContain('pitwarden_requests_total{pool="text",outcome="unavailable"} 1\n');
});

test('a pool that is known again keeps its counts, and one that is gone leaves no series', async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  metrics.outcome(outcome);
  metrics.addPool('text');
  expect(await body()).toContain('pitwarden_requests_total{pool="text",outcome="ok"} 1\n');
  metrics.forgetPool('text');
  expect(await body()).not.toContain('pool="text"');
});

test('a refusal counts as an outcome, and not as a short wait', async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  metrics.outcome({ ...outcome, code: 8, refused: true });
  metrics.outcome({ ...outcome, queuedMs: 2_000 });
  const text = await body();
  expect(text).toContain('pitwarden_requests_total{pool="text",outcome="resource_exhausted"} 1\n');
  expect(text).toContain('pitwarden_queue_seconds_count{pool="text"} 1\n');
  expect(text).toContain('pitwarden_queue_seconds_sum{pool="text"} 2\n');
});

test('the configuration in force has its time, and the build its versions', async () => {
  const { metrics, body } = scene();
  metrics.configTaken(1_500_000);
  const text = await body();
  expect(text).toContain('pitwarden_config_last_reload_success_timestamp_seconds 1500\n');
  expect(text).toContain('pitwarden_config_last_reload_successful 1\n');
  expect(text).toMatch(/pitwarden_build_info\{version="\d[^"]+",node_version="\d[^"]+"\} 1\n/);
});

const promtool = spawnSync('promtool', ['--version']).status === 0;
if (!promtool) process.stderr.write('promtool check metrics is skipped: there is no promtool on PATH\n');

test.skipIf(!promtool)('promtool check metrics finds nothing', async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  metrics.adoption('adopted', 1);
  const checked = spawnSync('promtool', ['check', 'metrics'], { input: await body(), encoding: 'utf8' });
  expect(checked).toMatchObject({ status: 0, stdout: '', stderr: '' });
});
