import type { ServerWritableStream, UntypedServiceImplementation } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import type { Changes, NodeRecord } from '../../domain/action.ts';
import type { Command, Counters } from '../../domain/event.ts';
import type { KeptExit, ReportedProgress, RequestNote } from '../../domain/evidence.ts';
import { assess, observe } from '../../domain/policies/health.ts';
import { noCounters } from '../../domain/policies/policy.ts';
import { isOpen } from '../../domain/roll.ts';
import type { Pool, Roll, State, Worker } from '../../domain/state.ts';
import { cutDetails } from '../status.ts';
import { changing, reading, writerOf } from './control-answers.ts';
import type { Listed } from './paging.ts';
import { pageOf, sorted, takeFitting } from './paging.ts';
import type { NodeFacts, PoolNumbers, Recorded } from './view.ts';
import {
  eventView,
  exitView,
  explainView,
  nodeView,
  poolView,
  progressView,
  registryEntryView,
  rollView,
  workerView,
} from './view.ts';

/** What Control needs of the agent. */
export interface ControlSource {
  state(): State;
  node(): NodeFacts;
  counters(workerId: string): Counters | undefined;
  /** Undefined: the ledger does not have it. */
  recorded(workerId: string): Recorded | undefined;
  poolNumbers(pool: string): PoolNumbers;
  /** How workers ended, newest first; of all pools where none is named. */
  exits(pool: string): readonly KeptExit[];
  requestsOf(workerId: string): readonly RequestNote[];
  progressOf(workerId: string): ReportedProgress | null;
  nowMs(): number;
  toUnixMs(monotonicMs: number): number;
  /** Decides on the command before it returns; what follows from it happens afterwards. */
  command(command: Command): void;
  /** Settles when what was ordered outlives this agent, or when that cannot be waited for. Never rejects. */
  ordersKept(): Promise<void>;
  /** Calls `listener` after every step that changed something, until the returned function is called. */
  subscribe(listener: Listener): () => void;
  /** How this agent was started: program and arguments. */
  readonly commandLine: readonly string[];
  /** Aborted when long calls are to end, because the agent goes. */
  readonly leaving: AbortSignal;
  /** Starts the handover. Returns how long requests that run may take, in ms. */
  handOver(): number;
  /** Reads the configuration as the next agent will. Resolves to its problems; empty: there are none. Never rejects. */
  checkConfig(): Promise<string>;
}

export type Listener = (changes: Changes, records: readonly NodeRecord[]) => void;

type Request = Readonly<Record<string, unknown>>;

const maxPoolSize = 1_000;
const rollFailuresMax = 3;
/** Of a snapshot: its pools, and again its workers. */
const snapshotPartBytes = 1.5 * 1024 * 1024;
/** Messages that a watcher may leave unread. */
const maxUnreadMessages = 10_000;

/** A refusal, as gRPC says it. */
class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly code: status;
  readonly details: string;
  constructor(code: status, details: string) {
    super(details);
    this.code = code;
    this.details = details;
  }
}

export function controlService(source: ControlSource): UntypedServiceImplementation {
  /** Who is told that something was ordered is told the truth, however soon this agent dies. */
  const change = (answer: (request: Request) => object | Promise<object>) =>
    changing(async (request) => {
      const view = await answer(request);
      await source.ordersKept();
      return view;
    }, toStatus);
  return {
    GetNode: read(() => nodeView(source.state(), source.node())),
    ListPools: read((request) => {
      const { views, next_page_token } = page(request, listedPools(source));
      return { pools: views, revision: source.state().revision, next_page_token };
    }),
    ListWorkers: read((request) => {
      const pool = text(request, 'pool');
      if (pool !== '') findPool(source, pool);
      const { views, next_page_token } = page(request, listedWorkers(source, pool));
      return { workers: views, revision: source.state().revision, next_page_token };
    }),
    GetWorker: read((request) => viewWorker(source, findWorker(source, request))),
    ListExits: read((request) => {
      const { views, next_page_token } = page(request, listedExits(source, text(request, 'pool')));
      return { exits: views, next_page_token };
    }),
    GetRegistry: read((request) => registry(source, request)),
    Explain: read((request) => explain(source, request)),
    ScalePool: change((request) => scalePool(source, request)),
    StartWorker: change((request) => startWorker(source, request)),
    StopWorker: change((request) => {
      const replace = request['replace'] === true;
      return onWorker(source, request, (workerId) => ({ type: 'stop-worker', workerId, replace }));
    }),
    DrainWorker: change((request) => onWorker(source, request, (workerId) => ({ type: 'drain-worker', workerId }))),
    RecycleWorker: change((request) => onWorker(source, request, (workerId) => ({ type: 'recycle-worker', workerId }))),
    DrainPool: change((request) => {
      const pool = writablePool(source, request);
      source.command({ type: 'drain-pool', pool: pool.name });
      return viewPool(source, pool.name);
    }),
    ResumePool: change((request) => {
      const pool = writablePool(source, request);
      source.command({ type: 'resume-pool', pool: pool.name });
      return viewPool(source, pool.name);
    }),
    RollPool: (call: ServerWritableStream<Request, object>) => rollPool(source, call),
    WatchRoll: (call: ServerWritableStream<Request, object>) => watchRoll(source, call),
    PauseRoll: change((request) => onRoll(source, request, 'pause-roll', ['running'])),
    ResumeRoll: change((request) => onRoll(source, request, 'resume-roll', ['paused'])),
    AbortRoll: change((request) => onRoll(source, request, 'abort-roll', ['running', 'paused'])),
    DrainNode: change(() => onNode(source, { type: 'drain-node' })),
    ResumeNode: change(() => onNode(source, { type: 'resume-node' })),
    Watch: (call: ServerWritableStream<Request, object>) => watch(source, call),
    Handover: change((request) => handover(source, request)),
  };
}

const read = (answer: (request: Request) => object) => reading(answer, toStatus);

function toStatus(error: unknown): { code: status; details: string } {
  if (error instanceof Refusal) return { code: error.code, details: cutDetails(error.details) };
  return { code: status.INTERNAL, details: cutDetails(error instanceof Error ? error.message : String(error)) };
}

function text(request: Request, key: string): string {
  const value = request[key];
  return typeof value === 'string' ? value : '';
}

function findPool(source: ControlSource, name: string): Pool {
  const pool = source.state().pools.get(name);
  if (pool !== undefined) return pool;
  const names = [...source.state().pools.keys()].sort().join(', ') || 'none';
  throw new Refusal(status.NOT_FOUND, `pool: expected one of this node's pools (${names}), got "${name}"`);
}

function writablePool(source: ControlSource, request: Request): Pool {
  const pool = findPool(source, text(request, 'pool'));
  refuseWhenStopping(source);
  if (pool.phase === 'removed')
    throw new Refusal(status.FAILED_PRECONDITION, `pool ${pool.name} was taken out of the config`);
  return pool;
}

function refuseWhenStopping(source: ControlSource): void {
  const { phase } = source.state().node;
  if (phase === 'stopping' || phase === 'stopped')
    throw new Refusal(status.FAILED_PRECONDITION, 'the agent is stopping');
}

/** Who asks for one more worker wants it to serve, and what was drained on purpose is not opened by the way. */
function refuseWhenDrained(source: ControlSource, pool: Pool): void {
  const resizes = 'ScalePool changes its size without that';
  if (pool.phase === 'draining') {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `pool ${pool.name}: expected one that takes requests, got one that is draining: ResumePool (pitwarden resume ${pool.name}) ends that; ${resizes}`,
    );
  }
  if (source.state().node.phase === 'draining') {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `pool ${pool.name}: expected one that takes requests, got one of a node that is draining: ResumeNode (pitwarden resume) ends that; ${resizes}`,
    );
  }
}

function findWorker(source: ControlSource, request: Request): Worker {
  const id = text(request, 'worker_id');
  const worker = source.state().workers.get(id);
  if (worker !== undefined) return worker;
  throw new Refusal(status.NOT_FOUND, `worker_id: expected a live worker (ListWorkers names them), got "${id}"`);
}

function registry(source: ControlSource, request: Request): object {
  const { workers, revision } = source.state();
  const { nodeId, agentId, startedAtMs } = source.node();
  const items = [...workers.values()].flatMap((worker) => {
    const recorded = worker.pid === 0 ? undefined : source.recorded(worker.id);
    return recorded === undefined ? [] : [{ worker, recorded }];
  });
  const { views, next_page_token } = page(request, {
    items,
    keyOf: ({ worker }) => [worker.id],
    view: ({ worker, recorded }) => registryEntryView(worker, recorded, source.toUnixMs),
  });
  const node = { node_id: nodeId, agent_id: agentId, agent_started_at_ms: startedAtMs };
  return { ...node, revision, workers: views, next_page_token };
}

function page<T>(request: Request, listed: Listed<T>): { views: readonly object[]; next_page_token: string } {
  const token = text(request, 'page_token');
  const found = pageOf(listed, { size: Number(request['page_size'] ?? 0), token });
  if (found === null) {
    const message = `page_token: expected a next_page_token of this list, got ${JSON.stringify(token.slice(0, 80))}`;
    throw new Refusal(status.INVALID_ARGUMENT, message);
  }
  return { views: found.views, next_page_token: found.nextToken };
}

function explain(source: ControlSource, request: Request): object {
  const id = text(request, 'worker_id');
  const live = [...source.state().workers.values()];
  const ended = source.exits('');
  const one = <T>(all: readonly T[], idOf: (each: T) => string): T | undefined => {
    const exact = all.find((each) => idOf(each) === id);
    const found = exact === undefined && id !== '' ? all.filter((each) => idOf(each).startsWith(id)) : [];
    if (found.length > 1) {
      const names = found.slice(0, 5).map(idOf).join(', ');
      throw new Refusal(status.INVALID_ARGUMENT, `worker_id: expected one worker, got ${found.length} (${names}, …)`);
    }
    return exact ?? found[0];
  };
  const worker = one(live, (each) => each.id);
  const pool = worker === undefined ? undefined : source.state().pools.get(worker.pool);
  if (worker !== undefined && pool !== undefined) {
    const verdict = assess(observe(worker, pool.config, source.counters(worker.id) ?? noCounters, source.nowMs()));
    return { worker: viewWorker(source, worker), ...explainView(verdict, source.requestsOf(worker.id)) };
  }
  const exit = one(ended, (each) => each.workerId);
  if (exit !== undefined) return { because: `it has ended: ${exit.reason}`, exit: exitView(exit, source.toUnixMs) };
  const expected = 'expected a live worker (ListWorkers) or one that ended lately (ListExits)';
  throw new Refusal(status.NOT_FOUND, `worker_id: ${expected}, got "${id}"`);
}

function scalePool(source: ControlSource, request: Request): object {
  const pool = writablePool(source, request);
  const { size } = request;
  // Absent is not 0, which stops all workers: an empty request, or one whose field has another name, must not do that.
  if (typeof size !== 'number' || size > maxPoolSize) {
    throw new Refusal(status.INVALID_ARGUMENT, `size: expected 0 to ${maxPoolSize}, got ${size ?? 'none'}`);
  }
  source.command({ type: 'scale', pool: pool.name, size });
  return viewPool(source, pool.name);
}

function startWorker(source: ControlSource, request: Request): object {
  const pool = writablePool(source, request);
  refuseWhenDrained(source, pool);
  if (pool.size >= maxPoolSize) {
    throw new Refusal(
      status.INVALID_ARGUMENT,
      `pool ${pool.name}: expected fewer than ${maxPoolSize} workers, got ${pool.size}`,
    );
  }
  const known = new Set(source.state().workers.keys());
  source.command({ type: 'scale', pool: pool.name, size: pool.size + 1 });
  const slots = source.state().pools.get(pool.name)?.slots ?? new Map();
  const slot = [...slots.keys()].find((index) => !pool.slots.has(index)) ?? 0;
  const worker = [...source.state().workers.values()].find(
    (w) => w.pool === pool.name && w.slot === slot && !known.has(w.id),
  );
  return { pool: viewPool(source, pool.name), slot, worker_id: worker?.id ?? '' };
}

function onWorker(source: ControlSource, request: Request, make: (workerId: string) => Command): object {
  const worker = findWorker(source, request);
  refuseWhenStopping(source);
  source.command(make(worker.id));
  return viewWorker(source, source.state().workers.get(worker.id) ?? worker);
}

function onNode(source: ControlSource, command: Command): object {
  refuseWhenStopping(source);
  source.command(command);
  return nodeView(source.state(), source.node());
}

function viewWorker(source: ControlSource, worker: Worker): object {
  const pool = source.state().pools.get(worker.pool)?.config;
  return {
    ...workerView(worker, pool, source.counters(worker.id), source.toUnixMs),
    ...progressView(source.progressOf(worker.id)),
  };
}

function viewPool(source: ControlSource, name: string): object {
  const pool = findPool(source, name);
  return poolView(pool, source.state(), source.poolNumbers(name), source.toUnixMs);
}

function listedPools(source: ControlSource): Listed<string> {
  return { items: source.state().pools.keys(), keyOf: (name) => [name], view: (name) => viewPool(source, name) };
}

function listedWorkers(source: ControlSource, only: string): Listed<Worker> {
  const { workers } = source.state();
  return {
    items: [...workers.values()].filter(({ pool }) => only === '' || pool === only),
    // Two workers may be in one generation: what an earlier agent has left of one, and its successor.
    keyOf: ({ pool, slot, generation, id }) => [pool, slot, generation, id],
    view: (worker) => viewWorker(source, worker),
  };
}

/** Newest first. */
function listedExits(source: ControlSource, only: string): Listed<KeptExit> {
  return {
    items: source.exits(only),
    keyOf: ({ exitedAtMs, workerId }) => [-exitedAtMs, workerId],
    view: (exit) => exitView(exit, source.toUnixMs),
  };
}

function onRoll(
  source: ControlSource,
  request: Request,
  type: 'pause-roll' | 'resume-roll' | 'abort-roll',
  phases: readonly Roll['phase'][],
): object {
  const pool = writablePool(source, request);
  const phase = pool.roll?.phase ?? 'none';
  if (!(phases as readonly string[]).includes(phase)) {
    const expected = `expected a roll that is ${phases.join(' or ')}`;
    throw new Refusal(status.FAILED_PRECONDITION, `pool ${pool.name}: ${expected}, got ${phase}`);
  }
  source.command({ type, pool: pool.name });
  return viewRoll(source, pool.name) ?? {};
}

function viewRoll(source: ControlSource, pool: string): object | undefined {
  const roll = source.state().pools.get(pool)?.roll;
  return roll == null ? undefined : rollView(pool, roll, source.state().workers.values(), source.toUnixMs);
}

/** Begins a roll and follows it. */
function rollPool(source: ControlSource, call: ServerWritableStream<Request, object>): void {
  followRoll(source, call, () => {
    const { name } = writablePool(source, call.request);
    const maxFailures = Number(call.request['max_failures'] ?? 0) || rollFailuresMax;
    source.command({ type: 'roll', pool: name, maxFailures });
    return { name, rollId: source.state().pools.get(name)?.roll?.id };
  });
}

/** Follows a roll that was begun before, which may have been by an earlier agent. */
function watchRoll(source: ControlSource, call: ServerWritableStream<Request, object>): void {
  followRoll(source, call, () => {
    const { name, roll } = findPool(source, text(call.request, 'pool'));
    const wanted = text(call.request, 'roll_id');
    if (roll !== null && (wanted === '' || wanted === roll.id)) return { name, rollId: roll.id };
    const last = roll === null ? 'the pool has had none' : `the last one is ${roll.id} (${roll.phase})`;
    throw new Refusal(status.NOT_FOUND, `roll_id: expected the last roll of pool ${name} (${last}), got "${wanted}"`);
  });
}

/** Tells how far the roll is, until it ends or another one takes its place. */
function followRoll(
  source: ControlSource,
  call: ServerWritableStream<Request, object>,
  choose: () => { readonly name: string; readonly rollId: string | undefined },
): void {
  let chosen: ReturnType<typeof choose>;
  try {
    chosen = choose();
  } catch (error) {
    call.emit('error', toStatus(error));
    return;
  }
  const { name, rollId } = chosen;
  let told = '';
  let isKept = false;
  let isOver = false;
  const write = writerOf(call);
  const tell = (): void => {
    if (!isKept || isOver) return;
    const roll = source.state().pools.get(name)?.roll;
    const view = roll?.id === rollId ? viewRoll(source, name) : undefined;
    if (view === undefined || roll == null) {
      end();
      call.emit('error', {
        code: status.ABORTED,
        details: `pool ${name}: the roll was ended, its pool or another roll came between`,
      });
      return;
    }
    const text = JSON.stringify(view);
    if (text !== told && !write(view)) return end();
    told = text;
    if (isOpen(roll)) return;
    end();
    call.end();
  };
  const unsubscribe = source.subscribe((changes) => {
    if (changes.pools.includes(name) || changes.poolsGone.includes(name)) tell();
  });
  const end = (): void => {
    isOver = true;
    unsubscribe();
  };
  endWhenLeaving(source, call, end);
  void source.ordersKept().then(() => {
    isKept = true;
    tell();
  });
}

/** A snapshot, then every change. Nothing can come between the two: both happen in one turn. */
function watch(source: ControlSource, call: ServerWritableStream<Request, object>): void {
  const only = text(call.request, 'pool');
  try {
    if (only !== '') findPool(source, only);
  } catch (error) {
    call.emit('error', toStatus(error));
    return;
  }
  const agentId = source.node().agentId;
  let unread = 0;
  const end = (): void => unsubscribe();
  const write = writerOf(call);
  const send = (revision: number, change: object): void => {
    if (!write({ revision, agent_id: agentId, ...change })) return end();
    if (!call.writableNeedDrain) return;
    unread += 1;
    if (unread <= maxUnreadMessages) return;
    end();
    call.emit('error', {
      code: status.RESOURCE_EXHAUSTED,
      details: `expected fewer than ${maxUnreadMessages} unread messages: watch again`,
    });
  };
  const unsubscribe = source.subscribe((changes, records) => sendChanges(source, only, changes, records, send));
  call.on('drain', () => {
    unread = 0;
  });
  endWhenLeaving(source, call, end);
  sendSnapshot(source, only, send);
}

/** What does not fit into one message follows as changes. */
function sendSnapshot(source: ControlSource, only: string, send: (revision: number, change: object) => void): void {
  const { revision, pools } = source.state();
  const names = [...pools.keys()].filter((name) => only === '' || name === only).sort();
  const shown = takeFitting(names, (name) => viewPool(source, name), snapshotPartBytes);
  const listed = listedWorkers(source, only);
  const fitting = takeFitting(sorted(listed), listed.view, snapshotPartBytes);
  const node = nodeView(source.state(), source.node());
  send(revision, { snapshot: { node, pools: shown.views, workers: fitting.views } });
  for (const name of shown.rest) send(revision, { pool: viewPool(source, name) });
  for (const worker of fitting.rest) send(revision, { worker: viewWorker(source, worker) });
}

function sendChanges(
  source: ControlSource,
  only: string,
  changes: Changes,
  records: readonly NodeRecord[],
  send: (revision: number, change: object) => void,
): void {
  const wanted = (pool: string | undefined): boolean => only === '' || pool === only;
  const { workers, pools } = source.state();
  for (const record of records)
    if (wanted(record.pool)) send(changes.revision, { event: eventView(record, source.toUnixMs) });
  for (const id of changes.workers) {
    const worker = workers.get(id);
    if (worker !== undefined && wanted(worker.pool)) send(changes.revision, { worker: viewWorker(source, worker) });
  }
  for (const gone of changes.workersGone) if (wanted(gone.pool)) send(changes.revision, { worker_gone: gone.id });
  for (const name of changes.pools)
    if (pools.has(name) && wanted(name)) send(changes.revision, { pool: viewPool(source, name) });
  for (const name of changes.poolsGone) if (wanted(name)) send(changes.revision, { pool_gone: name });
  if (changes.node) send(changes.revision, { node: nodeView(source.state(), source.node()) });
}

/** Calls `end` when the call is over, which it is at the latest when the agent goes. */
function endWhenLeaving(
  { leaving }: ControlSource,
  call: ServerWritableStream<Request, object>,
  end: () => void,
): void {
  const leave = (): void => {
    call.emit('error', { code: status.UNAVAILABLE, details: 'the agent is shutting down; retry with its successor' });
  };
  const over = (): void => {
    leaving.removeEventListener('abort', leave);
    end();
  };
  leaving.addEventListener('abort', leave);
  call.on('cancelled', over);
  call.on('close', over);
  call.on('error', over);
}

async function handover(source: ControlSource, request: Request): Promise<object> {
  const { agentId } = source.node();
  const wanted = text(request, 'agent_id');
  if (wanted !== '' && wanted !== agentId) {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `agent_id: expected that of this agent (${agentId}), got "${wanted}"`,
    );
  }
  // A successor that could not start would leave the workers without an agent.
  const problems = await source.checkConfig();
  if (problems !== '') {
    throw new Refusal(status.FAILED_PRECONDITION, `nothing was done, for the next agent would not start:\n${problems}`);
  }
  refuseWhenStopping(source);
  const node = nodeView(source.state(), source.node());
  const listed = listedWorkers(source, '');
  const { views } = takeFitting(sorted(listed), listed.view);
  return { node, workers: views, timeout_ms: source.handOver(), command_line: source.commandLine };
}
