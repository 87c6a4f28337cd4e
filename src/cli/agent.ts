import { fileURLToPath } from 'node:url';
import type { Agent } from '../agent/agent.ts';
import { startAgent } from '../agent/agent.ts';
import { serveManager } from '../agent/systemd.ts';
import type { Config, Overrides } from '../config/load.ts';
import { loadConfig } from '../config/load.ts';
import { loadApart } from '../config/load-apart.ts';
import { formatProblems } from '../config/problem.ts';
import { isJournal } from '../os/output/journal.ts';
import { exitProcess } from '../os/process/exit.ts';
import { ignoreSignals } from '../os/process/signals.ts';
import type { PassedSocket } from '../os/systemd.ts';
import { openServiceManager } from '../os/systemd.ts';
import type { Log } from '../telemetry/log.ts';
import { createLog } from '../telemetry/log.ts';
import { holdSignals, obeySignals } from './agent-signals.ts';
import { defaultSocketPath, environment } from './environment.ts';
import { CliError, exitCode } from './exit.ts';
import { ownName, shellWord, shortest } from './own-name.ts';

export interface AgentCommandOptions extends Overrides {
  readonly config: string;
}

/**
 * Runs the agent in the foreground until SIGTERM, SIGINT or a handover; SIGHUP reloads. Never returns: every way out
 * ends the process, within a bounded time even if nobody reads its output or a disk does not respond.
 */
export async function agent(options: AgentCommandOptions): Promise<void> {
  const config = await load(options);
  const log = createLog({
    level: config.log.level,
    format: logFormat(config),
    priorities: isJournal(process.env['JOURNAL_STREAM']),
  });
  handleCrashes(log);
  const manager = openServiceManager(process.env, (message) => log.warn(`systemd was not notified: ${message}`));
  const held = holdSignals();
  let running: Agent;
  try {
    running = await startAgent(config, log, apiSocketOf(manager.sockets), () =>
      loadApart(options.config, environment(), options),
    );
  } catch (error) {
    // The log may go to a program; stderr is for the user who started the agent.
    const isStuck = await log.end();
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    return exitProcess(exitCode.failed, isStuck);
  }
  for (const address of running.addresses) log.info(`listening: ${address}`);
  if (process.pid === 1) log.warn(firstProcess);
  void running.ready.then(() => log.info(`ready to serve; try: ${exampleCall(config, running.apiSocket)}`));
  const service = serveManager(manager, running, log);
  obeySignals(running, service, log);
  // Released after the new listeners exist: otherwise a signal between the two would be lost.
  const early = held.release();
  service.ready();
  // After the service manager has been notified of the start.
  setImmediate(() => {
    for (const signal of early) process.emit(signal, signal);
  });
  const { ending, isStuck } = await running.ended;
  service.close();
  log.info(ending === 'stopped' ? 'all workers are gone; the agent exits' : 'the agent exits; its workers stay');
  const isLogStuck = await log.end();
  exitProcess(ending === 'stopped' ? exitCode.ok : exitCode.handedOver, isStuck || isLogStuck);
}

const firstProcess =
  'this agent is process 1 of its container: what its workers leave behind becomes its child, and it cannot reap a child that it did not start; start the container with an init (docker run --init, or tini)';

/**
 * An uncaught error ends the agent like a crash, so that the service manager starts the next one; the workers live on.
 */
function handleCrashes(log: Log): void {
  process.on('uncaughtException', (error, origin) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    log.error(`the agent crashes; its workers live on for the next one: ${origin}: ${text}`);
    exitProcess(exitCode.crashed, log.endNow());
  });
  // The reader of our output may exit: then nothing is logged, and the workers continue.
  for (const stream of [process.stdout, process.stderr]) {
    stream.removeAllListeners('error');
    stream.on('error', () => undefined);
  }
  ignoreSignals((signal) => log.debug(`${signal} is ignored`));
}

/** The socket named `api`, or the only one; null if the agent creates its own. */
function apiSocketOf(sockets: readonly PassedSocket[]): PassedSocket | null {
  if (sockets.length <= 1) return sockets[0] ?? null;
  const api = sockets.filter(({ name }) => name === 'api');
  if (api.length === 1 && api[0] !== undefined) return api[0];
  const names = sockets.map(({ name }) => name).join(', ');
  throw new Error(`systemd's sockets: expected one, or one with FileDescriptorName=api, got ${names}`);
}

/** A command to try at once: the quickstart's own call, or `status`. */
function exampleCall(config: Config, socket: string): string {
  const readme = shortest(fileURLToPath(new URL('../../README.md', import.meta.url))).replace(/^\.\//, '');
  const quickstart = config.node.pools.get('text')?.app === 'text:app';
  const command = quickstart ? `call text summarize --file ${shellWord(readme)}` : 'status';
  const isDefault = socket === '' || socket === defaultSocketPath();
  return `${ownName()} ${command}${isDefault ? '' : ` --socket ${shellWord(socket)}`}`;
}

async function load(options: AgentCommandOptions): Promise<Config> {
  const loaded = await loadConfig(options.config, environment(), options);
  if (!loaded.ok) throw new CliError(exitCode.usage, formatProblems(loaded.problems));
  return loaded.config;
}

function logFormat(config: Config): 'pretty' | 'json' {
  if (config.log.format !== 'auto') return config.log.format;
  return process.stdout.isTTY ? 'pretty' : 'json';
}
