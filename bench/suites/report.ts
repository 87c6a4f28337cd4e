import type { ClientReadableStream } from '@grpc/grpc-js';
import { Client, credentials } from '@grpc/grpc-js';
import type { BenchAgent } from '../agent.ts';
import { startBenchAgent } from '../agent.ts';
import { cpuMicros, pause } from '../processes.ts';
import type { Report } from '../report.ts';
import { formatCount, withSpread } from '../report.ts';
import type { Measured, Rounds } from '../statistics.ts';
import { alternate, spread, spreadOf } from '../statistics.ts';
import type { SuiteOptions } from './options.ts';

const workers = 200;
/** Of one measurement: the kernel counts CPU time in steps of 10 ms, which is 0.05 % of a core over this time. */
const watchedMs = 20_000;
const none = 'no stream';
/** `interval_ms: 1000` of ReportRequest. */
const eachSecond = Buffer.from([0x08, 0xe8, 0x07]);

/** What Report costs the agent: streams with a beat a second of idle workers, and none, in alternating rounds. */
export async function report({ rounds }: SuiteOptions): Promise<Report> {
  const agent = await startBenchAgent({
    idle: `size: ${workers}, heartbeat: { interval: 2s }, start: { parallel: 8 }`,
  });
  try {
    await pause(5_000);
    const cases = [0, 1, 20].map((streams) => ({
      name: streams === 0 ? none : `${streams} ${streams === 1 ? 'stream' : 'streams'}`,
      measure: () => measure(agent, streams),
    }));
    const found = await alternate(cases, rounds);
    const idle = found.get(none) ?? [];
    return {
      suite: 'report',
      tables: [
        {
          title: `Report of ${workers} idle workers, a beat a second`,
          note: `Agent alone, ${watchedMs / 1000} s a round. Mark: one stream takes under 1 % of a core.`,
          columns: ['', 'beats a stream', 'bytes a beat', 'agent CPU %', 'more than without'],
          rows: [...found].map(([name, results]) => [
            name,
            ...['beats', 'bytes'].map((key) => formatCount(spreadOf(results, key).median)),
            withSpread(spreadOf(results, 'cpuPercent')),
            name === none ? '–' : moreThan(idle, results),
          ]),
        },
      ],
      data: Object.fromEntries(found),
      versions: {},
    };
  } finally {
    await agent.stop();
  }
}

/** Round by round: a busy moment of the machine is in both. */
function moreThan(idle: Rounds, results: Rounds): string {
  const differences = results.map(({ cpuPercent = Number.NaN }, round) => {
    return cpuPercent - (idle[round]?.['cpuPercent'] ?? Number.NaN);
  });
  const { median, low, high } = spread(differences);
  return `${median.toFixed(2)} (${low.toFixed(2)}–${high.toFixed(2)})`;
}

async function measure(agent: BenchAgent, streams: number): Promise<Measured> {
  const client = new Client(`unix:${agent.socket}`, credentials.createInsecure());
  let [beats, bytes] = [0, 0];
  const calls = Array.from({ length: streams }, () => {
    const call: ClientReadableStream<Buffer> = client.makeServerStreamRequest(
      '/pitwarden.v1.Control/Report',
      (request: Buffer) => request,
      (message: Buffer) => message,
      eachSecond,
    );
    call.on('data', (message: Buffer) => {
      beats += 1;
      bytes += message.length;
    });
    return call.on('error', (error: Error & { code?: number }) => {
      if (error.code !== 1) throw error;
    });
  });
  await pause(2_000);
  [beats, bytes] = [0, 0];
  const [cpuBefore, fromMs] = [cpuMicros(agent.pid), performance.now()];
  await pause(watchedMs);
  const cpuPercent = (cpuMicros(agent.pid) - cpuBefore) / 10 / (performance.now() - fromMs);
  const seconds = watchedMs / 1000;
  if (beats < streams * (seconds - 1)) throw new Error(`expected a beat a second of ${streams} streams, got ${beats}`);
  for (const call of calls) call.cancel();
  client.close();
  return { cpuPercent, beats: beats / Math.max(1, streams), bytes: bytes / Math.max(1, beats) };
}
