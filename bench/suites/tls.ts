import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BenchAgent } from '../agent.ts';
import { startBenchAgent } from '../agent.ts';
import type { ClientLoad } from '../client.ts';
import { built, root } from '../paths.ts';
import { cpuMicros, runCommand } from '../processes.ts';
import type { Report, Table } from '../report.ts';
import { formatCount, withSpread } from '../report.ts';
import type { Case, Measured, Rounds } from '../statistics.ts';
import { alternate, ratioOf, spreadOf } from '../statistics.ts';
import type { SuiteOptions } from './options.ts';

const pools = { one: 'size: 2, concurrency: 1' };
const plain = 'TCP without TLS';
const secured = 'TLS 1.3 with client certificates';

/** What TLS costs: Execute calls of one client over loopback TCP, with TLS and without; and the check of its role. */
export async function tls(options: SuiteOptions): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), 'pitwarden-bench-'));
  const agents: BenchAgent[] = [];
  try {
    const files = await issueCertificates(folder);
    agents.push(await startBenchAgent(pools, 'listen: 127.0.0.1:0'));
    agents.push(
      await startBenchAgent(
        pools,
        `listen: 127.0.0.1:0\ntls: { cert: ${folder}/node.crt, key: ${folder}/node.key, client_ca: ${files.ca} }`,
      ),
    );
    const [atPlain, atTls] = agents;
    if (atPlain === undefined || atTls === undefined) throw new Error('expected two agents');
    const tables: Table[] = [];
    const data: { title: string; results: Record<string, Rounds> }[] = [];
    for (const [payloadBytes, inFlight] of [
      [128, 1],
      [128, 32],
      [65536, 8],
    ] as const) {
      const title = `Execute, ${payloadBytes} B, ${inFlight} in flight`;
      if (options.only !== undefined && !title.includes(options.only)) continue;
      const common = { kind: 'execute', pool: 'one', command: 'echo', payloadBytes, inFlight } as const;
      const load = { ...common, seconds: options.seconds };
      const cases: Case[] = [
        { name: plain, measure: () => measure(atPlain, { ...load, socket: `http://${atPlain.listenAddress}` }) },
        {
          name: secured,
          measure: () => measure(atTls, { ...load, socket: `https://${atTls.listenAddress}`, tls: files }),
        },
      ];
      const found = await alternate(cases, options.rounds);
      tables.push(tableOf(title, found));
      data.push({ title, results: Object.fromEntries(found) });
    }
    const roleCheck = await measureRoleCheck();
    tables.push(roleTable(roleCheck));
    return { suite: 'tls', tables, data: { loads: data, roleCheckMicros: roleCheck }, versions: {} };
  } finally {
    for (const agent of agents) await agent.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function issueCertificates(folder: string) {
  const pitwarden = (...args: string[]) => runCommand(process.execPath, [join(root, 'bin/pitwarden'), 'ca', ...args]);
  const authority = join(folder, 'ca');
  await pitwarden('init', '--dir', authority);
  const issue = (name: string, ...args: string[]) =>
    pitwarden('issue', '--dir', authority, '--out', join(folder, name), ...args);
  await issue('node', '--node', 'bench', '--host', '127.0.0.1');
  await issue('caller', '--role', 'caller');
  return { ca: join(authority, 'ca.crt'), cert: join(folder, 'caller.crt'), key: join(folder, 'caller.key') };
}

async function measure(agent: BenchAgent, load: ClientLoad): Promise<Measured> {
  const answered = async () => (await agent.metrics()).get('pitwarden_requests_total{pool="one",outcome="ok"}') ?? 0;
  const [before, cpuBefore] = [await answered(), cpuMicros(agent.pid)];
  const measured = JSON.parse(
    await runCommand(process.execPath, [`${built}client.js`, JSON.stringify(load)]),
  ) as Measured;
  return { ...measured, agentCpuMicros: (cpuMicros(agent.pid) - cpuBefore) / ((await answered()) - before) };
}

function tableOf(title: string, found: ReadonlyMap<string, Rounds>): Table {
  const base = found.get(plain) ?? [];
  return {
    title,
    columns: ['', 'calls/s', '× plain', 'p50 ms', 'p99 ms', 'agent CPU µs a call'],
    rows: [...found].map(([name, rounds]) => [
      name,
      withSpread(spreadOf(rounds, 'perSecond')),
      withSpread(ratioOf(rounds, base, 'perSecond')),
      ...['p50Ms', 'p99Ms', 'agentCpuMicros'].map((key) => withSpread(spreadOf(rounds, key))),
    ]),
  };
}

interface Access {
  authorize(identityOf: () => object): (method: { path: string }, call: object) => object;
}
interface Identities {
  insecureTcp(mayControl: boolean): object;
}

const checks = 1_000_000;

/** Microseconds that the agent's own check of a call's role takes: calls that it lets through, over one connection. */
async function measureRoleCheck(): Promise<number> {
  const load = (file: string): Promise<unknown> => import(join(root, 'dist/grpc/access', file));
  const { authorize } = (await load('authorize.js')) as Access;
  const { insecureTcp } = (await load('identity.js')) as Identities;
  const identity = insecureTcp(false);
  const check = authorize(() => identity);
  const [call, method] = [{ stream: { session: {} } }, { path: '/pitwarden.v1.Execution/Execute' }];
  const run = (): void => {
    for (let i = 0; i < checks; i += 1) {
      if (check(method, call) !== call) throw new Error('authorize: expected the call to be let through');
    }
  };
  run();
  const startedAtMs = performance.now();
  run();
  return ((performance.now() - startedAtMs) * 1000) / checks;
}

function roleTable(micros: number): Table {
  return {
    title: 'The check of the role',
    note: 'Of a call that is let through, in one process without a network. Mark: under 2 µs.',
    columns: ['', 'µs a call'],
    rows: [['authorize', formatCount(micros)]],
  };
}
