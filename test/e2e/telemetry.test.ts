import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { needs } from '../needs.ts';
import type { TestAgent } from './agent.ts';
import { python, root, spawnAgent, until, untilLogged, untilReady } from './agent.ts';
import type { TelemetryView, TestClient } from './grpc.ts';
import { connect } from './grpc.ts';
import { scrape } from './http.ts';

// Applications measure in real workers; the agent adds it up.

let agent: TestAgent;
let client: TestClient;

afterEach(async () => {
  client?.close();
  await agent?.stop();
});

const measuring = (name: string, extra = '') => `
${name}: { app: measuring:app, python: ${python}, cwd: ${root}test/fixtures, heartbeat: { interval: 100ms }, ${extra} }
`;

/** The value of one series. */
async function value(series: string): Promise<number | undefined> {
  const line = (await scrape(agent.http)).split('\n').find((each) => each.startsWith(`${series} `));
  return line === undefined ? undefined : Number(line.slice(series.length + 1));
}

async function untilValue(series: string, expected: number | undefined): Promise<void> {
  await until(
    async () => (await value(series)) === expected,
    `${series} to be ${expected}`,
    () => scrape(agent.http).then((text) => text.split('\n').filter((line) => /_app_|_telemetry_/.test(line))),
  );
}

async function call<T>(pool: string, command: string, args: object = {}): Promise<T> {
  const { code, stdout, stderr } = await agent.cli('call', pool, command, '--args', JSON.stringify(args));
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return JSON.parse(stdout) as T;
}

const rows = (pool: string): string => `pitwarden_app_rows_total{pool="${pool}",table="a \\"b\\""}`;

test('what the workers of a pool measure is added up, over their ends and reloads of the config', async () => {
  const pools = measuring('a', 'size: 2') + measuring('b', 'telemetry: { max_series: 0 }');
  agent = await spawnAgent(pools);
  await untilReady(agent, 'a', 2);
  await untilReady(agent, 'b', 1);
  await untilValue('pitwarden_app_slot{pool="a",slot="0"}', 0);
  await untilValue('pitwarden_app_slot{pool="a",slot="1"}', 1);
  for (let asked = 1; asked <= 4; asked += 1) await call('a', 'measure', { times: 3 });
  await call('b', 'measure');
  await untilValue(rows('a'), 24);
  await untilValue('pitwarden_app_size_count{pool="a"}', 12);
  await untilValue('pitwarden_app_measure_seconds_count{pool="a",outcome="ok",part="all"}', 4);

  // A worker that asks to be replaced sends the rest before it ends.
  await call('a', 'leave');
  await untilValue(rows('a'), 26);
  await until(
    async () => (await agent.workers('a')).some(({ generation }) => generation === 2),
    'a successor in the slot',
  );
  await untilReady(agent, 'a', 2);
  expect(await value(rows('a'))).toBe(26);

  // `b` has no telemetry, until a reload gives it some.
  expect(await value(rows('b'))).toBeUndefined();
  agent.config(measuring('b'));
  agent.signal('SIGHUP');
  await untilValue(rows('a'), undefined);
  await call('b', 'measure');
  await untilValue(rows('b'), 2);
});

test('promtool finds no problems in what applications measure', needs('prometheus', hasPromtool()), async () => {
  agent = await spawnAgent(measuring('a'));
  await untilReady(agent, 'a', 1);
  await call('a', 'measure');
  await untilValue(rows('a'), 2);
  const checked = spawnSync('promtool', ['check', 'metrics'], { input: await scrape(agent.http), encoding: 'utf8' });
  expect(checked).toMatchObject({ status: 0, stdout: '', stderr: '' });
});

test('workers of a killed agent go on measuring for the next one, which counts from 0', async () => {
  agent = await spawnAgent(measuring('a'));
  await untilReady(agent, 'a', 1);
  const pid = await call('a', 'measure');
  await untilValue(rows('a'), 2);
  agent.signal('SIGKILL');
  await agent.exited;
  agent = await spawnAgent(measuring('a'), '', agent.dir);
  await untilReady(agent, 'a', 1);
  expect(await call('a', 'measure', { times: 2 })).toBe(pid);
  await untilValue(rows('a'), 4);
});

test('a flood of labels costs its worker some of its measurements, and nobody else anything', async () => {
  agent = await spawnAgent(measuring('flooded', 'telemetry: { max_series: 300 }') + measuring('quiet'));
  await untilReady(agent, 'flooded', 1);
  await untilReady(agent, 'quiet', 1);
  expect(await call<number>('flooded', 'flood', { labels: 200_000 })).toBeLessThan(32 * 1024 * 1024);
  await call('quiet', 'measure');
  await untilValue(rows('quiet'), 2);
  await untilLogged(agent, /pool flooded: measurements dropped: .*: a worker held too many series at once/);
  await untilLogged(agent, /pool flooded: .*: the pool has as many series as telemetry.max_series allows/);
  const of = (reason: string) => value(`pitwarden_telemetry_dropped_total{pool="flooded",reason="${reason}"}`);
  const counted = async () => {
    const taken = await value('pitwarden_telemetry_measurements_total{pool="flooded"}');
    return (taken ?? 0) + ((await of('worker_series')) ?? 0) + ((await of('max_series')) ?? 0);
  };
  // The gauge of the import, and each of the flood.
  await until(async () => (await counted()) === 200_001, 'each measurement to be counted', counted);
  expect(await value('pitwarden_telemetry_series{pool="flooded"}')).toBe(300);
  expect(await value('pitwarden_telemetry_dropped_total{pool="quiet",reason="max_series"}')).toBe(0);
});

test('StreamTelemetry brings what workers measure, with the request of each span', async () => {
  agent = await spawnAgent(measuring('a') + measuring('b'));
  await untilReady(agent, 'a', 1);
  await untilReady(agent, 'b', 1);
  client = connect(agent.socket);
  const got = follow({ pool: 'a', names: ['rows', 'failing_seconds'], interval_ms: 100 });
  await until(() => got.length === 1, 'the stream to begin');
  await client.execute('b', 'measure');
  await client.execute('a', 'measure', { times: 2 });
  const failed = client.execute('a', 'fail', {}, { request_id: 'the-one-that-fails' });
  await expect(failed).rejects.toMatchObject({ message: expect.stringContaining('on purpose') });
  const spans = () => got.flatMap((message) => message.spans);
  await until(
    () => spans().length === 1,
    'the span to come',
    () => got,
  );
  const [worker] = await agent.workers('a');
  expect(spans()[0]).toMatchObject({
    ...{ pool: 'a', worker_id: worker?.worker_id, name: 'failing_seconds', request_id: 'the-one-that-fails' },
    ...{ labels: [{ name: 'outcome', value: 'error' }], error_type: 'LookupError' },
  });
  expect(Math.abs((spans()[0]?.began_at_ms ?? 0) - Date.now())).toBeLessThan(60_000);
  expect(sumOf(got, 'rows')).toBe(4);
  expect(new Set(got.flatMap(({ measurements }) => measurements.map(({ name }) => name)))).toEqual(
    new Set(['rows', 'failing_seconds']),
  );
});

test('a worker that floods the agent with telemetry holds up neither requests nor telemetry of its neighbours', async () => {
  agent = await spawnAgent(measuring('flooding', 'size: 1') + measuring('quiet'));
  await untilReady(agent, 'flooding', 1);
  await untilReady(agent, 'quiet', 1);
  client = connect(agent.socket);
  const got = follow({ pool: 'quiet', names: ['rows'], interval_ms: 100 });
  await until(() => got.length === 1, 'the stream to begin');
  const before = residentBytes();
  const stop = join(agent.dir, 'stop');
  const flood = client.execute('flooding', 'raw_flood', { path: stop }, {}, 120_000);
  const dropped = () => value('pitwarden_telemetry_dropped_total{pool="flooding",reason="bytes"}');
  await until(async () => ((await dropped()) ?? 0) > 10, 'reports of the flood to be dropped');
  // All of this while the flood goes on.
  const calls = 200;
  for (let each = 0; each < calls; each += 1) await client.execute('quiet', 'measure');
  await until(
    () => sumOf(got, 'rows') === 2 * calls,
    'all of it to be streamed',
    () => sumOf(got, 'rows'),
  );
  await untilValue(rows('quiet'), 2 * calls);
  const between = await dropped();
  await until(async () => ((await dropped()) ?? 0) > (between ?? 0), 'the flood to have gone on until now');
  expect(residentBytes() - before).toBeLessThan(200 * 1024 * 1024);
  writeFileSync(stop, '');
  const { value: sent } = await flood;
  const taken = await value('pitwarden_telemetry_measurements_total{pool="flooding"}');
  // A thousand series in a report, but for a few per mille.
  expect((taken ?? 0) / 1_000).toBeLessThan(Number(sent) / 2);
});

/** Collects what the stream brings. */
function follow(request: object): TelemetryView[] {
  const got: TelemetryView[] = [];
  const call = client.telemetry(request);
  call.on('data', (message: TelemetryView) => got.push(message));
  call.on('error', () => undefined);
  return got;
}

function sumOf(messages: readonly TelemetryView[], wanted: string): number {
  const all = messages.flatMap(({ measurements }) => measurements).filter(({ name }) => name === wanted);
  return all.reduce((sum, each) => sum + each.value, 0);
}

function residentBytes(): number {
  const status = readFileSync(`/proc/${agent.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

function hasPromtool(): boolean {
  return spawnSync('promtool', ['--version']).status === 0;
}
