import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { unplannedReasons } from '../../src/domain/reason.ts';
import { initialState } from '../../src/domain/state.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { createAppMetrics } from '../../src/telemetry/app-metrics.ts';
import { createMetrics } from '../../src/telemetry/metrics.ts';
import { nodeConfig, poolConfig, Simulation } from '../domain/simulation.ts';
import { needs } from '../needs.ts';

function scene(state = initialState()) {
  const metrics = createMetrics();
  metrics.addGauges({
    state: () => state,
    poolNumbers: () => ({ queued: 3, queuedBytes: 30, inFlight: 2, capacity: 4 }),
    oldestRequest: () => ({ queuedMs: 1_500, runningMs: 250 }),
    eventsDropped: () => 0,
    connections: () => ({
      grpc: { open: 3, max: 4096, refused: 2, evicted: 1 },
      control_socket: null,
      worker_link: null,
      http: null,
    }),
    tls: () => ({
      validity: new Map([
        ['cert', { fromMs: 0, untilMs: 2_000 }],
        ['crl', { fromMs: 0, untilMs: Number.POSITIVE_INFINITY }],
      ]),
      isReloaded: false,
    }),
    budgets: { callers: createMemoryBudget(1), workers: createMemoryBudget(1), unproven: createMemoryBudget(1) },
  });
  const apps = createAppMetrics({ nowMs: () => 0, warn: () => undefined });
  metrics.addApps(apps);
  return { metrics, apps, body: async () => (await metrics.render()).body };
}

const outcome = { pool: 'text', code: 0, refused: false, queuedMs: 0, ranMs: 0 };

test('the labelled series of a pool start at 0, so that the first event is an increase', async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  const before = await body();
  for (const line of [
    'pitwarden_worker_starts_total{pool="text"} 0',
    'pitwarden_worker_exits_total{pool="text",reason="signal"} 0',
    'pitwarden_worker_exits_total{pool="text",reason="hung"} 0',
    'pitwarden_worker_recycles_total{pool="text",reason="memory"} 0',
    'pitwarden_worker_recycles_total{pool="text",reason="retired"} 0',
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

test('a pool keeps its counts when it is set again, and a removed pool leaves no series', async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  metrics.outcome(outcome);
  metrics.addPool('text');
  expect(await body()).toContain('pitwarden_requests_total{pool="text",outcome="ok"} 1\n');
  metrics.forgetPool('text');
  expect(await body()).not.toContain('pool="text"');
});

test('a refusal counts as an outcome but not as a wait', async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  metrics.outcome({ ...outcome, code: 8, refused: true });
  metrics.outcome({ ...outcome, queuedMs: 2_000 });
  const text = await body();
  expect(text).toContain('pitwarden_requests_total{pool="text",outcome="resource_exhausted"} 1\n');
  expect(text).toContain('pitwarden_queue_seconds_count{pool="text"} 1\n');
  expect(text).toContain('pitwarden_queue_seconds_sum{pool="text"} 2\n');
});

test('connections are counted by surface, starting at 0', async () => {
  const text = await scene().body();
  for (const line of [
    'pitwarden_connections{surface="grpc"} 3',
    'pitwarden_connections{surface="http"} 0',
    'pitwarden_connections_limit{surface="grpc"} 4096',
    'pitwarden_connections_refused_total{surface="grpc"} 2',
    'pitwarden_connections_refused_total{surface="worker_link"} 0',
    'pitwarden_connections_refused_total{surface="http"} 0',
    'pitwarden_connections_evicted_total{surface="grpc"} 1',
    'pitwarden_connections_evicted_total{surface="http"} 0',
  ])
    expect(text).toContain(`${line}\n`);
});

test('the end of each file of tls is exported, unless it has none, and whether the newest files are in force', async () => {
  const text = await scene().body();
  expect(text.match(/^pitwarden_tls.*/gm)).toEqual([
    'pitwarden_tls_expiry_timestamp_seconds{file="cert"} 2',
    'pitwarden_tls_last_reload_successful 0',
  ]);
});

test('docs/metrics.md lists exactly the existing series', async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  const page = readFileSync(new URL('../../docs/metrics.md', import.meta.url), 'utf8');
  const described = new Set(
    [...page.matchAll(/^\|(.*?)\| (?:gauge|counter|histogram) \|/gm)].flatMap(([, names = '']) =>
      [...names.matchAll(/`(pitwarden_\w+)/g)].map(([, name]) => name),
    ),
  );
  const rendered = [...(await body()).matchAll(/^# TYPE (pitwarden_\w+)/gm)].map(([, name = '']) => name);
  expect([...described].sort()).toEqual(rendered.filter((name) => !name.startsWith('pitwarden_agent_')).sort());
});

test('the time of the last reload and the versions of the build are exported', async () => {
  const { metrics, body } = scene();
  metrics.configApplied(1_500_000);
  const text = await body();
  expect(text).toContain('pitwarden_config_last_reload_success_timestamp_seconds 1500\n');
  expect(text).toContain('pitwarden_config_last_reload_successful 1\n');
  expect(text).toMatch(/pitwarden_build_info\{version="\d[^"]+",node_version="\d[^"]+"\} 1\n/);
});

/** A simulated pool `p` with ready workers. */
function simulated(patch: Parameters<typeof poolConfig>[0] = {}): Simulation {
  const simulation = new Simulation();
  simulation.apply({ type: 'config', config: nodeConfig(poolConfig(patch)) });
  simulation.run(10_000, () => simulation.ready('p').length === 2);
  return simulation;
}

const linesOf = async (simulation: Simulation) => (await scene(simulation.state).body()).split('\n');

test('the gauges agree with the state: states, limits, health, the oldest request', async () => {
  const memory = { softBytes: 100, hardBytes: 0, samples: 2, of: 3 };
  const lines = await linesOf(simulated({ recycle: { ...poolConfig().recycle, memory } }));
  for (const line of [
    'pitwarden_workers{pool="p",state="ready"} 2',
    'pitwarden_workers{pool="p",state="draining"} 0',
    'pitwarden_workers_health{pool="p",health="hung"} 0',
    'pitwarden_pool_state{pool="p",state="running"} 1',
    'pitwarden_pool_state{pool="p",state="draining"} 0',
    'pitwarden_pool_open{pool="p"} 1',
    'pitwarden_pool_quarantined{pool="p"} 0',
    'pitwarden_slots_backing_off{pool="p"} 0',
    'pitwarden_capacity{pool="p"} 4',
    'pitwarden_queue_depth{pool="p"} 3',
    'pitwarden_queue_limit_requests{pool="p"} 10',
    'pitwarden_queue_limit_bytes{pool="p"} 1000',
    'pitwarden_oldest_request_seconds{pool="p",state="queued"} 1.5',
    'pitwarden_oldest_request_seconds{pool="p",state="running"} 0.25',
    'pitwarden_memory_limit_bytes{pool="p",limit="soft"} 100',
    'pitwarden_node_state{state="running"} 1',
    'pitwarden_roll_state{pool="p",state="running"} 0',
  ])
    expect(lines).toContain(line);
  expect(lines.join('\n')).not.toContain('limit="hard"');
});

test('a draining pool, a roll, a refused reload and a back-off are visible', async () => {
  const simulation = simulated();
  simulation.apply({ type: 'roll', pool: 'p', maxFailures: 3 });
  simulation.apply({ type: 'config-refused', message: 'alas' });
  simulation.apply({ type: 'drain-pool', pool: 'p' });
  simulation.run(0, () => false);
  const lines = await linesOf(simulation);
  expect(lines).toContain('pitwarden_pool_open{pool="p"} 0');
  expect(lines).toContain('pitwarden_pool_state{pool="p",state="draining"} 1');
  expect(lines).toContain('pitwarden_config_last_reload_successful 0');
  expect(lines).toContain('pitwarden_roll_state{pool="p",state="running"} 1');

  const broken = new Simulation();
  broken.behaviour = { ...broken.behaviour, attachMs: Number.POSITIVE_INFINITY };
  broken.apply({ type: 'config', config: nodeConfig(poolConfig()) });
  broken.run(20_000, () =>
    [...(broken.state.pools.get('p')?.slots.values() ?? [])].some((slot) => slot.nextStartAtMs > 0),
  );
  const backingOff = (await linesOf(broken)).find((line) => line.startsWith('pitwarden_slots_backing_off'));
  expect(Number(backingOff?.split(' ')[1])).toBeGreaterThan(0);
});

test('each worker of a roll is counted once, from waiting to replaced', async () => {
  const simulation = simulated();
  simulation.apply({ type: 'roll', pool: 'p', maxFailures: 3 });
  const seen = new Set<string>();
  for (let step = 0; step < 200; step += 1) {
    simulation.run(10);
    const lines = (await linesOf(simulation)).filter((line) => line.startsWith('pitwarden_roll_workers{'));
    const counts = lines.map((line) => Number(line.split(' ')[1]));
    expect(counts.reduce((sum, count) => sum + count)).toBe(2);
    seen.add(counts.join(' '));
  }
  // Replaced, replacing, waiting.
  expect([...seen][0]).toBe('0 1 1');
  expect([...seen].at(-1)).toBe('2 0 0');
});

test('the example query in docs/metrics.md lists exactly the unplanned reasons', () => {
  const page = readFileSync(new URL('../../docs/metrics.md', import.meta.url), 'utf8');
  const [, asked = ''] = /pitwarden_worker_exits_total\{reason=~"([^"]+)"/.exec(page) ?? [];
  expect(asked.split('|').sort()).toEqual([...unplannedReasons].sort());
});

const promtool = spawnSync('promtool', ['--version']).status === 0;

test('promtool check metrics finds no problems', needs('prometheus', promtool, 'promtool is not on PATH'), async () => {
  const { metrics, body } = scene();
  metrics.addPool('text');
  metrics.adoption('adopted', 1);
  const checked = spawnSync('promtool', ['check', 'metrics'], { input: await body(), encoding: 'utf8' });
  expect(checked).toMatchObject({ status: 0, stdout: '', stderr: '' });
});
