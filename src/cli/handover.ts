import { setTimeout as delay } from 'node:timers/promises';
import { formatDuration, parseDuration } from '../config/units.ts';
import type { Connection } from './connect.ts';
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

/** The successor, and the workers that it has. */
interface Seen {
  readonly node: NodeView;
  readonly pools: readonly PoolView[];
  readonly workers: readonly WorkerView[];
}

const lookEveryMs = 100;
/** A call may wait in the socket of an agent that is not there yet: it is not to outlive its purpose by much. */
const askTimeoutMs = 2_000;

/**
 * Has the agent let go of its workers, and waits until another one answers at the socket and has all the workers that its
 * pools want, as far as the time allows.
 */
export async function handover(options: HandoverOptions): Promise<void> {
  const timeout = parseDuration(options.timeout);
  if (!timeout.ok) throw new CliError(exitCode.usage, `--timeout: ${timeout.message}`);
  const left = await withAgent(options.socket, requestHandover);
  const seen = await successor(options.socket, left, timeout.value);
  if (seen === undefined) throw new CliError(exitCode.failed, nobodyCame(left, timeout.value));
  tell(left, seen, options);
}

/** The agent that was looked at, and no other, is asked: it refuses where its successor could not start. */
async function requestHandover(agent: Connection): Promise<HandoverView> {
  const node = await agent.call<NodeView>('Control', 'GetNode', {});
  return agent.call<HandoverView>('Control', 'Handover', { agent_id: node.agent_id });
}

/** The time counts from the old agent's end, which its last requests may put off. */
async function successor(socket: string | undefined, left: HandoverView, timeoutMs: number): Promise<Seen | undefined> {
  let seen: Seen | undefined;
  let endsAtMs = performance.now() + left.timeout_ms + timeoutMs;
  let isGone = false;
  while (performance.now() < endsAtMs) {
    if (!isGone && !isAlive(left.node.pid)) {
      isGone = true;
      endsAtMs = performance.now() + timeoutMs;
    }
    const now = await look(socket);
    if (now !== undefined && now.node.agent_id !== left.node.agent_id) {
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

/** Undefined: nobody answers yet. */
async function look(socket: string | undefined): Promise<Seen | undefined> {
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

function isWhole({ pools }: Seen): boolean {
  return pools.every(({ state, size, workers_ready }) => state === 'POOL_STATE_REMOVED' || workers_ready >= size);
}

function tell(left: HandoverView, { node, workers }: Seen, { json }: HandoverOptions): void {
  const pids = new Map(left.workers.map((worker) => [worker.worker_id, worker.pid]));
  const taken_over = workers.filter(({ worker_id, pid }) => pids.get(worker_id) === pid).length;
  const started = workers.length - taken_over;
  if (json === true) return printJson({ from: left.node, to: node, taken_over, started });
  print(`from pitwarden ${left.node.version} (pid ${left.node.pid}) to ${node.version} (pid ${node.pid})`);
  print(`workers: ${taken_over} taken over, ${started} new`);
}

function nobodyCame({ node, command_line }: HandoverView, timeoutMs: number): string {
  return [
    `the agent with pid ${node.pid} has handed over, but no other agent answers after ${formatDuration(timeoutMs)}`,
    `start one now, because the workers do not wait long: systemctl start pitwarden, or`,
    `  ${command_line.map(shellWord).join(' ')}`,
  ].join('\n');
}
