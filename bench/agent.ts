import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { python, root } from './paths.ts';
import type { Subject } from './processes.ts';
import { startSubject } from './processes.ts';

export interface BenchAgent extends Subject {
  readonly socket: string;
  /** host:port of `listen`; empty: none. */
  readonly listenAddress: string;
  /** The samples of /metrics, by name with labels as they stand there. */
  metrics(): Promise<ReadonlyMap<string, number>>;
}

/** An agent as its users run it, with everything on; pools in YAML, and other keys of the configuration. */
export async function startBenchAgent(pools: Readonly<Record<string, string>>, keys = ''): Promise<BenchAgent> {
  const folder = mkdtempSync(join(tmpdir(), 'pitwarden-bench-'));
  const common = `app: bench_app:app, python: ${python}, cwd: ${root}bench/subjects`;
  const lines = Object.entries(pools).map(([name, keys]) => `  ${name}: { ${common}, ${keys} }`);
  const config = join(folder, 'pitwarden.yaml');
  writeFileSync(config, `${keys}\npools:\n${lines.join('\n')}\n`);
  const flags = ['--runtime-dir', join(folder, 'run'), '--state-dir', join(folder, 'state'), '--http', '127.0.0.1:0'];
  const nodeFlags = (process.env['BENCH_NODE_FLAGS'] ?? '').split(' ').filter((flag) => flag !== '');
  const subject = await startSubject(
    process.execPath,
    [...nodeFlags, join(root, 'bin/pitwarden'), 'agent', '--config', config, ...flags],
    { ready: /ready to serve/, readyWithinMs: 180_000 },
  );
  const [, listenAddress = ''] = /gRPC at (127\.0\.0\.1:\d+)/.exec(subject.output()) ?? [];
  const http = /http:\/\/(127\.0\.0\.1:\d+)/.exec(subject.output())?.[1] ?? '';
  return {
    ...subject,
    socket: join(folder, 'run/agent.sock'),
    listenAddress,
    metrics: async () => {
      const text = await (await fetch(`http://${http}/metrics`)).text();
      const samples = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
      return new Map(
        samples.map((line) => {
          const end = line.lastIndexOf(' ');
          return [line.slice(0, end), Number(line.slice(end + 1))];
        }),
      );
    },
    stop: async () => {
      await subject.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The bucket of ping round trips that holds the 99th percentile, of those between two readings of the metrics. */
export function pingP99Ms(before: ReadonlyMap<string, number>, after: ReadonlyMap<string, number>, pool: string) {
  const pattern = new RegExp(`^pitwarden_ping_round_trip_seconds_bucket\\{(?=.*pool="${pool}").*le="([^"]+)"`);
  const buckets = [...after].flatMap(([name, value]) => {
    const [, le] = pattern.exec(name) ?? [];
    return le === undefined
      ? []
      : [{ le: le === '+Inf' ? Infinity : Number(le), count: value - (before.get(name) ?? 0) }];
  });
  buckets.sort((a, b) => a.le - b.le);
  const all = buckets.at(-1)?.count ?? 0;
  return (buckets.find(({ count }) => all > 0 && count >= all * 0.99)?.le ?? Number.NaN) * 1000;
}
