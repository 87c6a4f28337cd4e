import { pingP99Ms, startBenchAgent } from '../agent.ts';
import type { ClientLoad } from '../client.ts';
import { built } from '../paths.ts';
import { cpuMicros, pause, rssMib, runCommand } from '../processes.ts';
import type { Report } from '../report.ts';
import { formatCount } from '../report.ts';
import type { SuiteOptions } from './options.ts';

const watchedMs = 30_000;
const million = 1_000_000;

/** Ours under its own weight: idle workers that are pinged and measured as the defaults have it. */
export async function weight({ only }: SuiteOptions): Promise<Report> {
  const data: Record<string, number>[] = [];
  for (const workers of [10, 50, 200]) {
    if (only !== undefined && only !== String(workers)) continue;
    const startedAtMs = performance.now();
    const agent = await startBenchAgent({
      idle: `size: ${workers}, heartbeat: { interval: 2s }, start: { parallel: 8 }`,
    });
    try {
      const startMs = performance.now() - startedAtMs;
      await pause(5_000);
      const [before, cpuBefore, fromMs] = [await agent.metrics(), cpuMicros(agent.pid), performance.now()];
      await pause(watchedMs);
      const cpuPercent = (cpuMicros(agent.pid) - cpuBefore) / 10 / (performance.now() - fromMs);
      const after = await agent.metrics();
      const ready = after.get('pitwarden_workers{pool="idle",state="ready"}');
      if (ready !== workers) throw new Error(`expected ${workers} ready workers to the end, got ${ready}`);
      data.push({
        workers,
        startMs,
        cpuPercent,
        rssMib: rssMib(agent.pid),
        loopLagP99Ms: (after.get('pitwarden_agent_nodejs_eventloop_lag_p99_seconds') ?? Number.NaN) * 1000,
        pingP99Ms: pingP99Ms(before, after, 'idle'),
      });
      process.stdout.write(`${JSON.stringify(data.at(-1))}\n`);
    } finally {
      await agent.stop();
    }
  }
  const keys = ['workers', 'startMs', 'cpuPercent', 'rssMib', 'loopLagP99Ms', 'pingP99Ms'] as const;
  return {
    suite: 'weight',
    tables: [
      {
        title: 'Idle workers, 2 s heartbeats',
        note: 'Agent alone, over 30 s. Marks: with 200 workers under 5 % of a core and under 150 MiB.',
        columns: ['workers', 'all ready after ms', 'CPU %', 'RSS MiB', 'event-loop lag p99 ms', 'ping p99 under ms'],
        rows: data.map((row) => keys.map((key) => formatCount(row[key] ?? Number.NaN))),
      },
    ],
    data,
    versions: {},
  };
}

/** Whether memory stays flat over five million requests, after one million in which V8's heap grows to its usual size. */
export async function memory(options: SuiteOptions): Promise<Report> {
  const agent = await startBenchAgent({ many: 'size: 2, concurrency: 16' });
  const data: { millions: number; perSecond: number; rssMib: number }[] = [];
  try {
    for (let millions = 1; millions <= 6; millions += 1) {
      const load: ClientLoad = {
        kind: 'submit',
        socket: agent.socket,
        pool: 'many',
        command: 'echo',
        payloadBytes: 128,
        inFlight: 256,
        seconds: options.seconds,
        requests: million,
      };
      const result = JSON.parse(await runCommand(process.execPath, [`${built}client.js`, JSON.stringify(load)]));
      data.push({ millions, perSecond: result.perSecond, rssMib: rssMib(agent.pid) });
      process.stdout.write(`${JSON.stringify(data.at(-1))}\n`);
    }
  } finally {
    await agent.stop();
  }
  const growth = ((data.at(-1)?.rssMib ?? 0) / (data[1]?.rssMib ?? 1) - 1) * 100;
  return {
    suite: 'memory',
    tables: [
      {
        title: 'Six million requests',
        note: `Submit, 256 in flight, 128 B. From the second to the sixth million the agent's RSS changed by ${growth.toFixed(1)} % (mark: under 5 %).`,
        columns: ['millions', 'requests/s', 'RSS MiB'],
        rows: data.map((row) => [String(row.millions), formatCount(row.perSecond), formatCount(row.rssMib)]),
      },
    ],
    data,
    versions: {},
  };
}
