import { startBenchAgent } from '../agent.ts';
import type { ClientLoad } from '../client.ts';
import { grpcFrame, h2loadFor } from '../h2load.ts';
import { encodeAsk, executePath } from '../messages.ts';
import { built } from '../paths.ts';
import { drive, driverPeers } from '../peers/drivers.ts';
import { grpcAsker } from '../peers/grpc-asker.ts';
import type { HttpPeer, PeerFunction, RunningPeer } from '../peers/http.ts';
import { askHttp, httpPeers, startHttpPeer } from '../peers/http.ts';
import { pidIn, recovery } from '../peers/recovery.ts';
import type { PeerVenv } from '../peers/venv.ts';
import { installPeers } from '../peers/venv.ts';
import type { Subject } from '../processes.ts';
import { commandLine, cpuMicros, descendantsOf, pause, pssMib, runCommand } from '../processes.ts';
import type { Report, Table } from '../report.ts';
import { formatCount, withSpread } from '../report.ts';
import type { Case, Measured, Rounds } from '../statistics.ts';
import { alternate, ratioOf, spreadOf } from '../statistics.ts';
import type { SuiteOptions } from './options.ts';

interface Setting {
  readonly function: PeerFunction;
  readonly inFlight: number;
}

interface Found {
  readonly rounds: ReadonlyMap<string, Rounds>;
  /** Why a case could not be measured, the last reason. */
  readonly failures: ReadonlyMap<string, string>;
}

interface Part {
  readonly title: string;
  run(venv: PeerVenv, options: SuiteOptions): Promise<Found>;
  table(found: Found): Table;
}

const payloadBytes = 128;
const workers = 2;
const startedWorkers = 20;
const idleWorkers = 50;
const settleMs = 3_000;
const idleMs = 10_000;
const execute = 'pitwarden Execute';

const loads: readonly Setting[] = [
  { function: 'echo', inFlight: 1 },
  { function: 'echo', inFlight: 32 },
  { function: 'echo', inFlight: 256 },
  { function: 'handler_5ms', inFlight: 32 },
];

const parts: readonly Part[] = [
  ...loads.map((setting) => ({
    title: `${setting.function === 'echo' ? 'Echo' : '5 ms handler'}, ${payloadBytes} B, ${setting.inFlight} in flight`,
    run: (venv: PeerVenv, options: SuiteOptions) => load(venv, options, setting),
    table: loadTable,
  })),
  { title: 'kill -9 of the only worker', run: kill, table: killTable },
  { title: `Start of ${startedWorkers} workers`, run: start, table: startTable },
  { title: `Idle supervisor of ${idleWorkers} workers`, run: idle, table: idleTable },
].map(({ title, run, table }) => ({ title, run, table: (found) => ({ ...table(found), title }) }));

/** Ours and what users would pick in its place: each run as its own documentation has it, with the same functions. */
export async function peers(options: SuiteOptions): Promise<Report> {
  const venv = await installPeers();
  const tables: Table[] = [];
  const data: object[] = [];
  for (const part of parts.filter(({ title }) => isAsked(title, options))) {
    process.stdout.write(`${part.title}\n`);
    const found = await part.run(venv, options);
    tables.push(part.table(found));
    data.push({
      title: part.title,
      results: Object.fromEntries(found.rounds),
      failures: Object.fromEntries(found.failures),
    });
  }
  return { suite: 'peers', tables, data, versions: venv.versions };
}

function isAsked(title: string, { only }: SuiteOptions): boolean {
  return only === undefined || title.toLowerCase().includes(only.toLowerCase());
}

/** As `alternate`, but a case that fails is told of, and costs only its own row. */
async function measure(cases: readonly Case[], rounds: number): Promise<Found> {
  const failures = new Map<string, string>();
  const guarded = cases.map(({ name, measure }) => ({
    name,
    measure: async (): Promise<Measured> => {
      try {
        const measured = await measure();
        process.stdout.write(`  ${name}: ${JSON.stringify(measured)}\n`);
        return measured;
      } catch (error) {
        const reason = reasonOf(error);
        process.stdout.write(`  ${name}: not measured: ${reason}\n`);
        failures.set(name, reason);
        return {};
      }
    },
  }));
  return { rounds: await alternate(guarded, rounds), failures };
}

function reasonOf(error: unknown): string {
  const [line = '', ...rest] = (error instanceof Error ? error.message : String(error)).trimEnd().split('\n');
  // The first line has the whole command; what a program said last is in its last one.
  const why = rest.at(-1) ?? line;
  return why.replaceAll('|', '/').trim().slice(0, 200);
}

/** All that can stay up stays up while the others are loaded; Ray and Celery start for each measurement. */
async function load(venv: PeerVenv, options: SuiteOptions, setting: Setting): Promise<Found> {
  const started: Subject[] = [];
  try {
    const agent = await startBenchAgent({ one: `size: ${workers}` });
    started.push(agent);
    const cases = [...ourLoads(agent.socket, setting, options.seconds)];
    for (const peer of httpPeers) {
      const ready = await startOrReason(peer, venv, setting);
      if (!(ready instanceof Error)) started.push(ready);
      cases.push({ name: peer.name, measure: () => loadHttp(ready, setting, options.seconds) });
    }
    const args = ['--function', setting.function, '--payload-bytes', `${payloadBytes}`, '--workers', `${workers}`];
    args.push('--in-flight', `${setting.inFlight}`, '--seconds', `${options.seconds}`);
    for (const peer of driverPeers) cases.push({ name: peer.name, measure: () => drive(peer, venv, args) });
    return await measure(cases, options.rounds);
  } finally {
    for (const subject of started) await subject.stop();
  }
}

function ourLoads(socket: string, { function: command, inFlight }: Setting, seconds: number): Case[] {
  const target = {
    address: socket,
    path: executePath,
    body: grpcFrame(encodeAsk({ pool: 'one', command, payloadBytes })),
    answerBytes: payloadBytes,
    protocol: 'grpc' as const,
  };
  const submitted: ClientLoad = { kind: 'submit', socket, pool: 'one', command, payloadBytes, inFlight, seconds };
  return [
    { name: execute, measure: async () => ({ ...(await h2loadFor(target, { seconds, inFlight })) }) },
    {
      name: 'pitwarden Submit',
      measure: async () =>
        JSON.parse(await runCommand(process.execPath, [`${built}client.js`, JSON.stringify(submitted)])),
    },
  ];
}

async function startOrReason(peer: HttpPeer, venv: PeerVenv, setting: Setting): Promise<RunningPeer | Error> {
  try {
    return await startHttpPeer(peer, venv, { workers, function: setting.function });
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

async function loadHttp(ready: RunningPeer | Error, setting: Setting, seconds: number): Promise<Measured> {
  if (ready instanceof Error) throw ready;
  const target = {
    address: ready.address,
    path: `/${setting.function}`,
    body: Buffer.alloc(payloadBytes, 'x'),
    answerBytes: payloadBytes,
    protocol: 'http1' as const,
  };
  return { ...(await h2loadFor(target, { seconds, inFlight: setting.inFlight })) };
}

function loadTable({ rounds, failures }: Found): Omit<Table, 'title'> {
  const ours = rounds.get(execute) ?? [];
  return {
    note: `${workers} workers each, one request at a time in each.`,
    columns: ['subject', 'requests/s', `${execute} is … of it`, 'p50 ms', 'p99 ms'],
    rows: rowsOf({ rounds, failures }, (found) => [
      withSpread(spreadOf(found, 'perSecond')),
      `${withSpread(ratioOf(ours, found, 'perSecond'))} ×`,
      withSpread(spreadOf(found, 'p50Ms')),
      withSpread(spreadOf(found, 'p99Ms')),
    ]),
  };
}

/** A fresh start for each kill: who lost a worker already may wait longer before the next one. */
async function kill(venv: PeerVenv, options: SuiteOptions): Promise<Found> {
  const cases: Case[] = [{ name: execute, measure: killOurs }];
  for (const peer of httpPeers) {
    cases.push({
      name: peer.name,
      measure: () =>
        using(startHttpPeer(peer, venv, { workers: 1, function: 'pid' }), ({ address }) =>
          recovery(async (withinMs) => {
            const answer = await askHttp(address, 'pid', withinMs);
            return answer === undefined ? undefined : pidIn(answer);
          }),
        ),
    });
  }
  for (const peer of driverPeers) cases.push({ name: peer.name, measure: () => drive(peer, venv, ['--kill']) });
  return measure(cases, options.rounds);
}

function killOurs(): Promise<Measured> {
  return using(startBenchAgent({ one: 'size: 1' }), async (agent) => {
    const { ask, close } = grpcAsker(agent, 'one');
    try {
      return await recovery(ask);
    } finally {
      close();
    }
  });
}

async function using<S extends Subject>(
  starting: Promise<S>,
  work: (subject: S) => Promise<Measured>,
): Promise<Measured> {
  const subject = await starting;
  try {
    return await work(subject);
  } finally {
    await subject.stop();
  }
}

function killTable(found: Found): Omit<Table, 'title'> {
  return {
    note: 'From the kill of the idle worker that answered last to the first good answer, which another process must give. Asked again 1 ms after each failure; a try may take 1 s.',
    columns: ['subject', 'ms until the next answer'],
    rows: rowsOf(found, (rounds) => [untilAnswer(rounds)]),
  };
}

function untilAnswer(rounds: Rounds): string {
  const answered = rounds.filter((measured) => 'ms' in measured).length;
  const none = rounds.filter((measured) => 'none' in measured).length;
  if (none === 0) return withSpread(spreadOf(rounds, 'ms'));
  if (answered === 0) return 'none in 30 s';
  return `${withSpread(spreadOf(rounds, 'ms'))}; none in 30 s in ${none} of ${none + answered} rounds`;
}

async function start(venv: PeerVenv, options: SuiteOptions): Promise<Found> {
  const timed = (name: string, starting: () => Promise<Subject>): Case => ({
    name,
    measure: async () => {
      const startedAtMs = performance.now();
      return using(starting(), async () => ({ ms: performance.now() - startedAtMs }));
    },
  });
  const cases = [
    timed('pitwarden', () => startBenchAgent({ one: `size: ${startedWorkers}` })),
    timed(`pitwarden, start.parallel ${startedWorkers}`, () =>
      startBenchAgent({ one: `size: ${startedWorkers}, start: { parallel: ${startedWorkers} }` }),
    ),
    ...httpPeers.map((peer) =>
      timed(peer.name, () => startHttpPeer(peer, venv, { workers: startedWorkers, function: 'echo' })),
    ),
    ...driverPeers.map((peer) => ({
      name: peer.name,
      measure: () => drive(peer, venv, ['--start', `${startedWorkers}`]),
    })),
  ];
  return measure(cases, options.rounds);
}

function startTable(found: Found): Omit<Table, 'title'> {
  return {
    note:
      'From the start of the command. pitwarden: until it says that all are ready. HTTP servers: until each worker has ' +
      'loaded the application and a request was answered. Ray: until each actor has answered. Celery: until all ' +
      'children are there and a task was answered; Redis runs before.',
    columns: ['subject', 'ms until all are ready'],
    rows: rowsOf(found, (rounds) => [withSpread(spreadOf(rounds, 'ms'))]),
  };
}

/** Once: what idles varies little, and fifty workers take their time to start. */
async function idle(venv: PeerVenv): Promise<Found> {
  const cases = [
    {
      name: 'pitwarden agent and guardian',
      measure: () =>
        using(startBenchAgent({ one: `size: ${idleWorkers}` }), ({ pid }) => idleCost(ourSupervisors(pid))),
    },
    ...httpPeers.map((peer) => ({
      name: peer.name,
      measure: () =>
        using(startHttpPeer(peer, venv, { workers: idleWorkers, function: 'echo' }), (subject) =>
          idleCost(supervisorsOf(subject)),
        ),
    })),
    ...driverPeers.map((peer) => ({
      name: peer.name,
      measure: () => drive(peer, venv, ['--idle', `${idleWorkers}`]),
    })),
  ];
  return measure(cases, 1);
}

/** The agent and its guardian. */
function ourSupervisors(agent: number): number[] {
  const children = descendantsOf(agent);
  const others = children.filter((pid) => !commandLine(pid).includes('pitwarden.worker'));
  const found = children.length - others.length;
  if (found !== idleWorkers) throw new Error(`expected ${idleWorkers} workers below the agent, got ${found}`);
  return [agent, ...others];
}

function supervisorsOf({ pid, workers }: RunningPeer): number[] {
  return [pid, ...descendantsOf(pid)].filter((other) => !workers.includes(other));
}

async function idleCost(pids: readonly number[]): Promise<Measured> {
  await pause(settleMs);
  const cpu = (): number => pids.reduce((sum, pid) => sum + cpuMicros(pid), 0);
  const [before, fromMs] = [cpu(), performance.now()];
  await pause(idleMs);
  const cpuPercent = (cpu() - before) / 10 / (performance.now() - fromMs);
  return { cpuPercent, pssMib: pids.reduce((sum, pid) => sum + pssMib(pid), 0), processes: pids.length };
}

function idleTable(found: Found): Omit<Table, 'title'> {
  return {
    note:
      `All processes but the workers, over ${idleMs / 1000} s. Memory that is shared with workers (gunicorn, granian ` +
      'and Celery fork theirs) counts by its share. Ray: with the driver; Celery: parent and Redis.',
    columns: ['supervisor', 'processes', 'PSS MiB', 'CPU % of a core'],
    rows: rowsOf(found, (rounds) => [
      String(spreadOf(rounds, 'processes').median),
      formatCount(spreadOf(rounds, 'pssMib').median),
      spreadOf(rounds, 'cpuPercent').median.toFixed(1),
    ]),
  };
}

/** A row a case, of its rounds that were measured. */
function rowsOf({ rounds, failures }: Found, cells: (measured: Rounds) => string[]): string[][] {
  return [...rounds].map(([name, all]) => {
    const measured = all.filter((one) => Object.keys(one).length > 0);
    if (measured.length === 0) return [name, `not measured: ${failures.get(name)}`];
    const some = measured.length < all.length ? ` (${measured.length} of ${all.length} rounds)` : '';
    return [name + some, ...cells(all)];
  });
}
