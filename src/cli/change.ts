import type { AgentConnection } from './connect.ts';
import { withAgent } from './connect.ts';
import { CliError, exitCode } from './exit.ts';
import { listPools, listWorkers } from './lists.ts';
import { ownName, shellWord } from './own-name.ts';
import { print, printJson } from './print.ts';
import { enumLabel } from './table.ts';
import type { NodeView, PoolView, WorkerView } from './views.ts';

/** Commands that change what runs. Each prints what was accepted; `workers` and `events` show the effects. */

export interface ChangeOptions {
  readonly socket?: string;
  readonly json?: boolean;
  /** Also on a node that a control plane manages. */
  readonly force?: boolean;
}

export async function scale(pool: string, size: string, options: ChangeOptions): Promise<void> {
  // The agent checks the value. This only refuses numbers of which protobuf would silently send the lowest 32 bits.
  if (!/^\d{1,9}$/.test(size))
    throw new CliError(exitCode.usage, `SIZE: expected a whole number of at most 9 digits, got "${size}"`);
  await change(options, async (agent) => {
    const scaled = await agent.call<PoolView>('Control', 'ScalePool', { pool, size: Number(size), ...forced(options) });
    const still = enumLabel(scaled.state) === 'draining' ? `, still drained (${resumeHint(options, pool)})` : '';
    return { view: scaled, text: `pool ${pool}: size ${scaled.size}${still}` };
  });
}

export async function start(pool: string, options: ChangeOptions): Promise<void> {
  await change(options, async (agent) => {
    const started = await agent.call<{ pool: PoolView; slot: number; worker_id: string }>('Control', 'StartWorker', {
      pool,
      ...forced(options),
    });
    const worker = started.worker_id === '' ? `slot ${started.slot}, when its turn comes` : started.worker_id;
    return { view: started, text: `pool ${pool}: size ${started.pool.size}, starting ${worker}` };
  });
}

export async function stop(workerId: string, options: ChangeOptions & { readonly replace?: boolean }): Promise<void> {
  await change(options, async (agent) => {
    const request = {
      worker_id: await workerIdOf(agent, workerId),
      replace: options.replace === true,
      ...forced(options),
    };
    return describeWorker(await agent.call<WorkerView>('Control', 'StopWorker', request));
  });
}

export async function drain(
  target: string | undefined,
  options: ChangeOptions & { readonly node?: boolean },
): Promise<void> {
  if ((target === undefined) === (options.node !== true)) {
    throw new CliError(exitCode.usage, 'expected a pool, a worker id, or --node');
  }
  await change(options, async (agent) => {
    if (target === undefined) return describeNode(await agent.call<NodeView>('Control', 'DrainNode', forced(options)));
    const { pool, workers } = await find(agent, target);
    if (pool === undefined)
      return describeWorker(
        await agent.call<WorkerView>('Control', 'DrainWorker', { worker_id: workers[0], ...forced(options) }),
      );
    const drained = await agent.call<PoolView>('Control', 'DrainPool', { pool, ...forced(options) });
    return { view: drained, text: `pool ${pool}: ${enumLabel(drained.state)}` };
  });
}

/** Without a pool: resumes the node. The answer also names other drains that still keep requests away. */
export async function resume(pool: string | undefined, options: ChangeOptions): Promise<void> {
  await change(options, (agent) =>
    pool === undefined ? resumeNode(agent, options) : resumePool(agent, pool, options),
  );
}

async function resumeNode(agent: AgentConnection, options: ChangeOptions): Promise<Changed> {
  const view = await agent.call<NodeView>('Control', 'ResumeNode', forced(options));
  const pools = await listPools(agent);
  const drained = pools.filter(({ state }) => enumLabel(state) === 'draining').map(({ pool }) => pool);
  const still = drained.map((pool) => `\npool ${pool}: still drained (${resumeHint(options, pool)})`).join('');
  return { view, text: `${describeNode(view).text}${still}` };
}

async function resumePool(agent: AgentConnection, pool: string, options: ChangeOptions): Promise<Changed> {
  const view = await agent.call<PoolView>('Control', 'ResumePool', { pool, ...forced(options) });
  const node = await agent.call<NodeView>('Control', 'GetNode', {});
  const still = enumLabel(node.state) === 'draining' ? `, but its node is drained (${resumeHint(options)})` : '';
  return { view, text: `pool ${pool}: ${enumLabel(view.state)}${still}` };
}

/** A command to paste into a shell. */
function resumeHint({ socket }: ChangeOptions, pool?: string): string {
  const words = [
    'resume',
    ...(pool === undefined ? [] : [pool]),
    ...(socket === undefined ? [] : ['--socket', socket]),
  ];
  return `${ownName()} ${words.map(shellWord).join(' ')}`;
}

/** Ends the management of the node by a control plane. */
export async function release(options: ChangeOptions): Promise<void> {
  await change(options, async (agent) => {
    const view = await agent.call<NodeView>('Control', 'ReleaseNode', forced(options));
    return { view, text: `node ${view.node_id}: not managed by a control plane` };
  });
}

const forced = ({ force }: ChangeOptions) => ({ force: force === true });

export async function recycle(target: string, options: ChangeOptions): Promise<void> {
  await change(options, async (agent) => {
    const { workers } = await find(agent, target);
    const views: WorkerView[] = [];
    for (const worker_id of workers)
      views.push(await agent.call<WorkerView>('Control', 'RecycleWorker', { worker_id }));
    return { view: views, text: views.map((view) => describeWorker(view).text).join('\n') };
  });
}

/** The agent's answer, and the same for users. */
interface Changed {
  readonly view: object;
  readonly text: string;
}

async function change(options: ChangeOptions, ask: (agent: AgentConnection) => Promise<Changed>): Promise<void> {
  const { view, text } = await withAgent(options.socket, ask);
  if (options.json === true) printJson(view);
  else print(text);
}

/**
 * The live worker with this id, or the only one whose id begins with it, as in `explain`. The agent itself only accepts
 * full ids, so that a program that repeats a request never meets another worker. The name of a pool never matches a
 * worker.
 */
async function workerIdOf(agent: AgentConnection, given: string): Promise<string> {
  const workers = await listWorkers(agent);
  const ids = workers.map((worker) => worker.worker_id);
  if (given === '' || ids.includes(given) || workers.some(({ pool }) => pool === given)) return given;
  const [found, ...others] = ids.filter((id) => id.startsWith(given));
  if (found === undefined) return given;
  if (others.length === 0) return found;
  const names = [found, ...others].slice(0, 5).join(', ');
  const message = `worker: expected one whose id begins with "${given}", got ${others.length + 1} (${names}, …)`;
  throw new CliError(exitCode.usage, message);
}

/** The live workers of a pool, or a single worker. */
async function find(agent: AgentConnection, target: string): Promise<{ pool?: string; workers: string[] }> {
  const pools = await listPools(agent);
  if (!pools.some((pool) => pool.pool === target)) return { workers: [await workerIdOf(agent, target)] };
  const workers = await listWorkers(agent, target);
  const serving = workers.filter((worker) => ['starting', 'ready'].includes(enumLabel(worker.state)));
  return { pool: target, workers: serving.map((worker) => worker.worker_id) };
}

function describeWorker(view: WorkerView): Changed {
  const reason = view.reason === '' ? '' : ` (${view.reason})`;
  return { view, text: `worker ${view.worker_id}: ${enumLabel(view.state)}${reason}` };
}

function describeNode(view: NodeView): Changed {
  return { view, text: `node ${view.node_id}: ${enumLabel(view.state)}` };
}
