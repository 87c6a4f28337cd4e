import { setTimeout as delay } from 'node:timers/promises';
import { formatDuration, parseDuration } from '../config/units.ts';
import type { AgentConnection } from './connect.ts';
import { withAgent } from './connect.ts';
import { CliError, exitCode } from './exit.ts';
import { listPools, listWorkers } from './lists.ts';
import { shellWord } from './own-name.ts';
import { print, printJson } from './print.ts';
import type { HandoverView, NodeView, PoolView, WorkerView } from './views.ts';

export interface HandoverOptions {
  readonly socket?: string;
  readonly json?: boolean;
  readonly timeout: string;
}

/** The successor and its workers. */
interface Successor {
  readonly node: NodeView;
  readonly pools: readonly PoolView[];
  readonly workers: readonly WorkerView[];
}

const lookEveryMs = 100;
/** A call may wait in the socket of an agent that is not running yet, so it needs a short deadline. */
const askTimeoutMs = 2_000;

/**
 * Asks the agent to hand over, and waits until another agent answers at the socket and has all the workers of its
 * pools, or until the timeout.
 */
export async function handover(options: HandoverOptions): Promise<void> {
  const timeout = parseDuration(options.timeout);
  if (!timeout.ok) throw new CliError(exitCode.usage, `--timeout: ${timeout.message}`);
  const before = await withAgent(options.socket, requestHandover);
  const seen = await successor(options.socket, before, timeout.value);
  if (seen === undefined) throw new CliError(exitCode.failed, noSuccessor(before, timeout.value));
  printResult(before, seen, options);
}

/** Hands over exactly the agent that was queried. It refuses if its successor could not start. */
async function requestHandover(agent: AgentConnection): Promise<HandoverView> {
  const node = await agent.call<NodeView>('Control', 'GetNode', {});
  return agent.call<HandoverView>('Control', 'Handover', { agent_id: node.agent_id });
}

/** The timeout counts from the exit of the old agent, which its last requests may delay. */
async function successor(
  socket: string | undefined,
  before: HandoverView,
  timeoutMs: number,
): Promise<Successor | undefined> {
  let seen: Successor | undefined;
  let endsAtMs = performance.now() + before.timeout_ms + timeoutMs;
  let isGone = false;
  while (performance.now() < endsAtMs) {
    if (!isGone && !isAlive(before.node.pid)) {
      isGone = true;
      endsAtMs = performance.now() + timeoutMs;
    }
    const now = await query(socket);
    if (now !== undefined && now.node.agent_id !== before.node.agent_id) {
      seen = now;
      if (isWhole(seen)) return seen;
    }
    await delay(lookEveryMs);
  }
  return seen;
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Undefined if no agent answers yet. */
async function query(socket: string | undefined): Promise<Successor | undefined> {
  try {
    return await withAgent(socket, async (agent) => {
      const soon = { deadline: Date.now() + askTimeoutMs };
      const node = await agent.call<NodeView>('Control', 'GetNode', {}, soon);
      return { node, pools: await listPools(agent, soon), workers: await listWorkers(agent, '', soon) };
    });
  } catch (error) {
    if (error instanceof CliError) return undefined;
    throw error;
  }
}

function isWhole({ pools }: Successor): boolean {
  return pools.every(({ state, size, workers_ready }) => state === 'POOL_STATE_REMOVED' || workers_ready >= size);
}

function printResult(before: HandoverView, { node, workers }: Successor, { json }: HandoverOptions): void {
  const pids = new Map(before.workers.map((worker) => [worker.worker_id, worker.pid]));
  const taken_over = workers.filter(({ worker_id, pid }) => pids.get(worker_id) === pid).length;
  const started = workers.length - taken_over;
  if (json === true) return printJson({ from: before.node, to: node, taken_over, started });
  print(`from pitwarden ${before.node.version} (pid ${before.node.pid}) to ${node.version} (pid ${node.pid})`);
  print(`workers: ${taken_over} taken over, ${started} new`);
}

function noSuccessor({ node, command_line }: HandoverView, timeoutMs: number): string {
  return [
    `the agent with pid ${node.pid} has handed over, but no other agent answers after ${formatDuration(timeoutMs)}`,
    `start one now, because the workers do not wait long: systemctl start pitwarden, or`,
    `  ${command_line.map(shellWord).join(' ')}`,
  ].join('\n');
}
