import { join } from 'node:path';
import type { BenchAgent } from '../agent.ts';
import { startBenchAgent } from '../agent.ts';
import type { ClientLoad } from '../client.ts';
import { built, python, root } from '../paths.ts';
import { cpuMicros, descendantsOf, runCommand } from '../processes.ts';
import type { Report, Table } from '../report.ts';
import { formatCount, withSpread } from '../report.ts';
import type { Measured, Rounds } from '../statistics.ts';
import { alternate, ratioOf, spreadOf } from '../statistics.ts';
import type { SuiteOptions } from './options.ts';

/** The command that measures nothing, and those that do so once in each request. */
const none = 'nothing';
const commands: Readonly<Record<string, string>> = {
  [none]: 'echo',
  'one counter': 'echo_counter',
  'one histogram with a label': 'echo_histogram',
  'one span': 'echo_span',
};

/** What telemetry costs: requests that measure once against those that do not, and the calls by themselves. */
export async function telemetry(options: SuiteOptions): Promise<Report> {
  const agent = await startBenchAgent({ one: 'size: 2, concurrency: 1' }, 'listen: 127.0.0.1:0');
  try {
    const tables: Table[] = [];
    const data: { title: string; results: Record<string, Rounds> }[] = [];
    for (const inFlight of [1, 32]) {
      const title = `Execute, 128 B, ${inFlight} in flight`;
      if (options.only !== undefined && !title.includes(options.only)) continue;
      const cases = Object.entries(commands).map(([name, command]) => {
        const common = {
          kind: 'execute',
          pool: 'one',
          payloadBytes: 128,
          socket: `http://${agent.listenAddress}`,
        } as const;
        const load: ClientLoad = { ...common, command, inFlight, seconds: options.seconds };
        return { name, measure: () => measure(agent, load) };
      });
      const found = await alternate(cases, options.rounds);
      tables.push(tableOf(title, found));
      data.push({ title, results: Object.fromEntries(found) });
    }
    const calls = await measureCalls();
    tables.push(callsTable(calls));
    return { suite: 'telemetry', tables, data: { loads: data, microsOfCalls: calls }, versions: {} };
  } finally {
    await agent.stop();
  }
}

async function measure(agent: BenchAgent, load: ClientLoad): Promise<Measured> {
  const numbers = async () => {
    const metrics = await agent.metrics();
    return {
      answered: metrics.get('pitwarden_requests_total{pool="one",outcome="ok"}') ?? 0,
      agentMicros: cpuMicros(agent.pid),
      workerMicros: descendantsOf(agent.pid).reduce((sum, pid) => sum + cpuMicros(pid), 0),
      dropped: [...metrics].filter(([name]) => name.startsWith('pitwarden_telemetry_dropped_total')),
    };
  };
  const before = await numbers();
  const output = await runCommand(process.execPath, [`${built}client.js`, JSON.stringify(load)]);
  const after = await numbers();
  if (after.dropped.some(([, count]) => count > 0)) throw new Error('telemetry: expected nothing to be dropped');
  const each = (key: 'agentMicros' | 'workerMicros') => (after[key] - before[key]) / (after.answered - before.answered);
  const cpu = { agentCpuMicros: each('agentMicros'), workerCpuMicros: each('workerMicros') };
  return { ...(JSON.parse(output) as Measured), ...cpu };
}

function tableOf(title: string, found: ReadonlyMap<string, Rounds>): Table {
  const base = found.get(none) ?? [];
  return {
    title,
    note: 'Each request measures once, or nothing.',
    columns: ['', 'calls/s', '× nothing', 'p99 ms', 'worker CPU µs a call', 'agent CPU µs a call'],
    rows: [...found].map(([name, rounds]) => [
      name,
      withSpread(spreadOf(rounds, 'perSecond')),
      withSpread(ratioOf(rounds, base, 'perSecond')),
      ...['p99Ms', 'workerCpuMicros', 'agentCpuMicros'].map((key) => withSpread(spreadOf(rounds, key))),
    ]),
  };
}

/** Microseconds of CPU time of each call in one thread of a worker. */
async function measureCalls(): Promise<Readonly<Record<string, number>>> {
  return JSON.parse(await runCommand(python, [join(root, 'bench/subjects/measure_calls.py')]));
}

function callsTable(calls: Readonly<Record<string, number>>): Table {
  return {
    title: 'The calls by themselves',
    note: 'CPU time in one thread, the best of five repetitions.',
    columns: ['', 'µs a call'],
    rows: Object.entries(calls).map(([call, micros]) => [`\`${call}\``, formatCount(micros)]),
  };
}
