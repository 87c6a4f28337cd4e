import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BenchAgent } from '../agent.ts';
import { pingP99Ms, startBenchAgent } from '../agent.ts';
import type { ClientLoad } from '../client.ts';
import type { LoadTarget } from '../h2load.ts';
import { grpcFrame, h2loadFor } from '../h2load.ts';
import { encodeAsk, executePath } from '../messages.ts';
import { built, python, root } from '../paths.ts';
import type { Subject } from '../processes.ts';
import { cpuMicros, runCommand, startSubject } from '../processes.ts';
import type { Report, Table } from '../report.ts';
import { formatCount, withSpread } from '../report.ts';
import type { Case, Measured, Rounds } from '../statistics.ts';
import { alternate, ratioOf, spreadOf } from '../statistics.ts';
import type { SuiteOptions } from './options.ts';

/** The agent's pools: handlers one at a time as the default has it, many at a time, and one that is pinged often. */
const pools = {
  one: 'size: 2, concurrency: 1, queue: { max_bytes: 1GiB }',
  many: 'size: 2, concurrency: 16, queue: { max_bytes: 1GiB }',
  pinged: 'size: 2, concurrency: 1, heartbeat: { interval: 100ms, timeout: 10s }',
};

interface Setting {
  readonly command: 'echo' | 'handler_5ms' | 'stream';
  readonly payloadBytes: number;
  readonly inFlight: number;
}

const sizes: readonly (readonly [number, string])[] = [
  [128, '128 B'],
  [4096, '4 KiB'],
  [65536, '64 KiB'],
  [1024 * 1024, '1 MiB'],
];
const baseline = 'bare grpc-js echo';

/** Ours against the floor: what the parts that pitwarden is made of can do by themselves. */
export async function floor(options: SuiteOptions): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), 'pitwarden-bench-'));
  const started: Subject[] = [];
  try {
    const sockets = { js: join(folder, 'js.sock'), python: join(folder, 'python.sock'), raw: join(folder, 'raw.sock') };
    const ready = /ready/;
    started.push(await startSubject(process.execPath, [`${built}subjects/echo-grpc-js.js`, sockets.js], { ready }));
    started.push(await startSubject(process.execPath, [`${built}subjects/echo-socket.js`, sockets.raw], { ready }));
    started.push(await startSubject(python, [`${root}bench/subjects/echo_grpcio.py`, sockets.python], { ready }));
    const agent = await startBenchAgent(pools);
    started.push(agent);
    const all: Table[] = [];
    const data: { setting: Setting; results: Record<string, Rounds> }[] = [];
    for (const setting of settings(options)) {
      const found = await alternate(casesOf(setting, sockets, agent, options.seconds), options.rounds);
      data.push({ setting, results: Object.fromEntries(found) });
      all.push(tableOf(setting, found));
      process.stdout.write(
        `${titleOf(setting)}: ${[...found].map(([name, r]) => `${name} ${formatCount(spreadOf(r, 'perSecond').median)}/s`).join(', ')}\n`,
      );
    }
    return { suite: 'floor', tables: [summary(data), ...all], data, versions: {} };
  } finally {
    for (const subject of started) await subject.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

function settings({ only }: SuiteOptions): Setting[] {
  const all: Setting[] = [];
  for (const [payloadBytes] of sizes) {
    for (const inFlight of [1, 32, 256]) all.push({ command: 'echo', payloadBytes, inFlight });
  }
  for (const payloadBytes of [128, 65536]) {
    for (const inFlight of [1, 32]) all.push({ command: 'stream', payloadBytes, inFlight });
  }
  for (const inFlight of [1, 32, 256]) all.push({ command: 'handler_5ms', payloadBytes: 128, inFlight });
  return all.filter((setting) => only === undefined || titleOf(setting).includes(only));
}

function titleOf({ command, payloadBytes, inFlight }: Setting): string {
  const size = sizes.find(([bytes]) => bytes === payloadBytes)?.[1] ?? `${payloadBytes} B`;
  if (command === 'stream') return `stream of 1,000 chunks a call, ${size} a chunk, ${inFlight} in flight (chunks/s)`;
  return `${command === 'echo' ? 'echo' : '5 ms handler'}, ${size}, ${inFlight} in flight`;
}

function casesOf(
  setting: Setting,
  sockets: { js: string; python: string; raw: string },
  agent: BenchAgent,
  seconds: number,
): Case[] {
  const { command, payloadBytes, inFlight } = setting;
  const target = (address: string, pool: string): LoadTarget => ({
    address,
    path: executePath,
    body: grpcFrame(encodeAsk({ pool, command, payloadBytes })),
    answerBytes: payloadBytes,
    protocol: 'grpc',
  });
  const unary = async (address: string, pool = 'one'): Promise<Measured> => {
    return { ...(await h2loadFor(target(address, pool), { seconds, inFlight })) };
  };
  const ours = async (load: () => Promise<Measured>, pool: string): Promise<Measured> => {
    const [before, cpuBefore] = [await agent.metrics(), cpuMicros(agent.pid)];
    const measured = await load();
    // The warm-up's requests cost too: both are counted.
    const answered = (metrics: ReadonlyMap<string, number>): number =>
      metrics.get(`pitwarden_requests_total{pool="${pool}",outcome="ok"}`) ?? 0;
    const after = await agent.metrics();
    const requests = answered(after) - answered(before);
    return {
      ...measured,
      agentCpuMicros: (cpuMicros(agent.pid) - cpuBefore) / requests,
      pingP99Ms: pingP99Ms(before, after, pool),
    };
  };
  const client = async (load: Pick<ClientLoad, 'kind' | 'socket' | 'pool'>): Promise<Measured> => {
    const full: ClientLoad = { command, payloadBytes, inFlight, seconds, ...load };
    return JSON.parse(await runCommand(process.execPath, [`${built}client.js`, JSON.stringify(full)])) as Measured;
  };
  const submit = (pool: string) => ours(() => client({ kind: 'submit', socket: agent.socket, pool }), pool);
  if (command === 'stream') {
    return [
      { name: baseline, measure: () => client({ kind: 'stream', socket: sockets.js, pool: '' }) },
      {
        name: 'pitwarden ExecuteStream, concurrency 16',
        measure: () => ours(() => client({ kind: 'stream', socket: agent.socket, pool: 'many' }), 'many'),
      },
    ];
  }
  const cases: Case[] = [
    { name: baseline, measure: () => unary(sockets.js) },
    { name: 'bare Python grpcio', measure: () => unary(sockets.python) },
    { name: 'pitwarden Execute', measure: () => ours(() => unary(agent.socket), 'one') },
    { name: 'pitwarden Execute, concurrency 16', measure: () => ours(() => unary(agent.socket, 'many'), 'many') },
    { name: 'pitwarden Submit', measure: () => submit('one') },
    { name: 'pitwarden Submit, concurrency 16', measure: () => submit('many') },
  ];
  if (command === 'echo') {
    cases.unshift({
      name: 'raw unix socket',
      measure: () => client({ kind: 'socket', socket: sockets.raw, pool: '' }),
    });
  }
  if (payloadBytes > 65536 && inFlight <= 32) {
    cases.push({
      name: 'pitwarden Execute, pinged every 100 ms',
      measure: () => ours(() => unary(agent.socket, 'pinged'), 'pinged'),
    });
  }
  return cases;
}

function tableOf(setting: Setting, found: ReadonlyMap<string, Rounds>): Table {
  const floorRounds = found.get(baseline) ?? [];
  const withPings = setting.payloadBytes > 65536;
  return {
    title: titleOf(setting)[0]?.toUpperCase() + titleOf(setting).slice(1),
    columns: [
      'subject',
      'requests/s',
      `of ${baseline}`,
      'p50 ms',
      'p99 ms',
      'agent CPU µs/request',
      ...(withPings ? ['pings, p99 under ms'] : []),
    ],
    rows: [...found].map(([name, rounds]) => [
      name,
      withSpread(spreadOf(rounds, 'perSecond')),
      withSpread(ratioOf(rounds, floorRounds, 'perSecond')),
      withSpread(spreadOf(rounds, 'p50Ms')),
      withSpread(spreadOf(rounds, 'p99Ms')),
      formatCount(spreadOf(rounds, 'agentCpuMicros').median),
      ...(withPings ? [formatCount(spreadOf(rounds, 'pingP99Ms').high)] : []),
    ]),
  };
}

/** The project's own marks, next to what this run found. */
function summary(data: readonly { setting: Setting; results: Record<string, Rounds> }[]): Table {
  const at = (command: string, payloadBytes: number, inFlight: number): Record<string, Rounds> =>
    data.find(({ setting: s }) => s.command === command && s.payloadBytes === payloadBytes && s.inFlight === inFlight)
      ?.results ?? {};
  const [one, some, many, large] = [
    at('echo', 128, 1),
    at('echo', 128, 32),
    at('echo', 128, 256),
    at('echo', 1024 * 1024, 32),
  ];
  const ratio = (results: Record<string, Rounds>, ours: string, theirs: string): string =>
    `${withSpread(ratioOf(results[ours] ?? [], results[theirs] ?? [], 'perSecond'))} ×`;
  const added = (one['pitwarden Execute'] ?? []).map((measured, round) => ({
    ms: (measured['p50Ms'] ?? 0) - (one[baseline]?.[round]?.['p50Ms'] ?? 0),
  }));
  const pings = spreadOf(large['pitwarden Execute, pinged every 100 ms'] ?? [], 'pingP99Ms').high;
  const rows = [
    ['Execute, 32 in flight, 128 B, of a bare grpc-js echo', '0.55 ×', ratio(some, 'pitwarden Execute', baseline)],
    ['… with concurrency 16', '0.55 ×', ratio(some, 'pitwarden Execute, concurrency 16', baseline)],
    [
      'Execute, 32 in flight, 128 B, of bare Python grpcio',
      '2 ×',
      ratio(some, 'pitwarden Execute', 'bare Python grpcio'),
    ],
    [
      'Submit, 256 in flight, 128 B, of bare Python grpcio',
      '12 ×',
      ratio(many, 'pitwarden Submit', 'bare Python grpcio'),
    ],
    ['… with concurrency 16', '12 ×', ratio(many, 'pitwarden Submit, concurrency 16', 'bare Python grpcio')],
    [
      "Execute, 1 in flight: added to a bare grpc-js echo's p50",
      'under 0.35 ms',
      `${withSpread(spreadOf(added, 'ms'))} ms`,
    ],
    ['1 MiB, 32 in flight, of a bare grpc-js echo', '0.35 ×', ratio(large, 'pitwarden Execute', baseline)],
    ['… pings meanwhile, p99', 'under 100 ms', `under ${formatCount(pings)} ms`],
    [
      'agent CPU for one Execute, 32 in flight',
      'under 120 µs',
      `${withSpread(spreadOf(some['pitwarden Execute'] ?? [], 'agentCpuMicros'))} µs`,
    ],
  ];
  return { title: 'Marks', columns: ['measure', 'at least', 'found: median (lowest–highest)'], rows };
}
