import { fileURLToPath } from 'node:url';
import type { Agent } from '../agent/agent.ts';
import { startAgent } from '../agent/agent.ts';
import type { Service } from '../agent/systemd.ts';
import { serveManager } from '../agent/systemd.ts';
import type { Config, Overrides } from '../config/load.ts';
import { loadConfig } from '../config/load.ts';
import { loadApart } from '../config/load-apart.ts';
import { changedSince } from '../config/next-start.ts';
import { formatProblems } from '../config/problem.ts';
import { isJournal } from '../os/output/journal.ts';
import { exitProcess } from '../os/process/exit.ts';
import { ignoreSignals } from '../os/process/signals.ts';
import type { LentSocket } from '../os/systemd.ts';
import { openServiceManager } from '../os/systemd.ts';
import type { Log } from '../telemetry/log.ts';
import { createLog } from '../telemetry/log.ts';
import { defaultSocketPath, environment } from './environment.ts';
import { CliError, exitCode } from './exit.ts';
import { ownName, shellWord, shortest } from './own-name.ts';
import { createReload } from './reload.ts';

export interface AgentCommandOptions extends Overrides {
  readonly config: string;
}

/**
 * Runs the agent in the foreground until SIGTERM or SIGINT, or until it hands over; SIGHUP reloads. Never returns: each way
 * out ends the process itself and takes a bounded time, whoever does not read its output and whatever disk does not answer.
 */
export async function agent(options: AgentCommandOptions): Promise<void> {
  const config = await load(options);
  const log = createLog({
    level: config.log.level,
    format: logFormat(config),
    priorities: isJournal(process.env['JOURNAL_STREAM']),
  });
  survive(log);
  const manager = openServiceManager(process.env, (message) => log.warn(`systemd was not told: ${message}`));
  const held = holdSignals();
  let running: Agent;
  try {
    running = await startAgent(config, log, apiSocketOf(manager.sockets), () => problemsOf(options));
  } catch (error) {
    // The log may be read by a program, stderr is for whoever started it.
    const isStuck = await log.end();
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    return exitProcess(exitCode.failed, isStuck);
  }
  for (const address of running.addresses) log.info(`listening: ${address}`);
  if (process.pid === 1) log.warn(firstProcess);
  void running.ready.then(() => log.info(`ready to serve; try: ${exampleCall(config, running.apiSocket)}`));
  const service = serveManager(manager, running, log);
  obeySignals(running, service, options, config, log);
  // After that: a signal that is on its way to the last listener is lost with it.
  const early = held.release();
  service.ready();
  // After the service manager has been told that the agent has started.
  setImmediate(() => {
    for (const signal of early) process.emit(signal, signal);
  });
  const { ending, isStuck } = await running.ended;
  service.close();
  log.info(ending === 'stopped' ? 'all workers are gone; the agent ends' : 'the agent ends; its workers stay');
  const isLogStuck = await log.end();
  exitProcess(ending === 'stopped' ? exitCode.ok : exitCode.handedOver, isStuck || isLogStuck);
}

const firstProcess =
  'this agent is process 1 of its container: what its workers leave behind becomes its child, and it cannot reap a child that it did not start; start the container with an init (docker run --init, or tini)';

/** What nobody caught ends the agent as a crash, so that the service manager starts the next one; the workers live on. */
function survive(log: Log): void {
  process.on('uncaughtException', (error, origin) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    log.error(`the agent crashes; its workers live on for the next one: ${origin}: ${text}`);
    exitProcess(exitCode.crashed, log.endNow());
  });
  // Who reads our output may go: the log says nothing then, and the workers go on.
  for (const stream of [process.stdout, process.stderr]) {
    stream.removeAllListeners('error');
    stream.on('error', () => undefined);
  }
  ignoreSignals((signal) => log.debug(`${signal} is ignored`));
}

/** The socket called `api`, or the only one; null: the agent makes its own. */
function apiSocketOf(sockets: readonly LentSocket[]): LentSocket | null {
  if (sockets.length <= 1) return sockets[0] ?? null;
  const api = sockets.filter(({ name }) => name === 'api');
  if (api.length === 1 && api[0] !== undefined) return api[0];
  const names = sockets.map(({ name }) => name).join(', ');
  throw new Error(`systemd's sockets: expected one, or one with FileDescriptorName=api, got ${names}`);
}

/** Something to try at once, to be pasted: the quickstart's own call, or a look at what runs. */
function exampleCall(config: Config, socket: string): string {
  const readme = shortest(fileURLToPath(new URL('../../README.md', import.meta.url))).replace(/^\.\//, '');
  const quickstart = config.node.pools.get('text')?.app === 'text:app';
  const command = quickstart ? `call text summarize --file ${shellWord(readme)}` : 'status';
  const found = socket === '' || socket === defaultSocketPath();
  return `${ownName()} ${command}${found ? '' : ` --socket ${shellWord(socket)}`}`;
}

async function load(options: AgentCommandOptions): Promise<Config> {
  const loaded = await loadConfig(options.config, environment(), options);
  if (!loaded.ok) throw new CliError(exitCode.usage, formatProblems(loaded.problems));
  return loaded.config;
}

/** Problems that are told of a configuration which the next agent could not start with. */
const problemsTold = 10;

async function problemsOf(options: AgentCommandOptions): Promise<string> {
  const loaded = await loadApart(options.config, environment(), options);
  return loaded.ok ? '' : formatProblems(loaded.problems.slice(0, problemsTold));
}

function logFormat(config: Config): 'pretty' | 'json' {
  if (config.log.format !== 'auto') return config.log.format;
  return process.stdout.isTTY ? 'pretty' : 'json';
}

interface HeldSignals {
  /** Those that came, in their order; later ones are not held. */
  release(): readonly NodeJS.Signals[];
}

/**
 * Signals that come while the agent starts wait until it has: by default they would end it, and what it took over would live on
 * without an agent. A second one that asks for the end has that effect.
 */
function holdSignals(): HeldSignals {
  const names = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;
  const held: NodeJS.Signals[] = [];
  let askedAtMs: number | null = null;
  const release = (): readonly NodeJS.Signals[] => {
    for (const name of names) process.off(name, hold);
    return held;
  };
  const hold = (signal: NodeJS.Signals): void => {
    held.push(signal);
    if (signal === 'SIGHUP') return;
    const nowMs = performance.now();
    askedAtMs ??= nowMs;
    if (nowMs - askedAtMs < relayedMs) return;
    release();
    process.kill(process.pid, signal);
  };
  for (const name of names) process.on(name, hold);
  return { release };
}

function obeySignals(running: Agent, service: Service, options: AgentCommandOptions, started: Config, log: Log): void {
  let askedAtMs: number | null = null;
  const stop = (signal: NodeJS.Signals): void => {
    const nowMs = performance.now();
    if (askedAtMs === null) {
      askedAtMs = nowMs;
      log.info(
        `${signal}: no new requests; waiting for those that run (again, after ${relayedMs / 1000} s or more: kill at once)`,
      );
      service.stopping();
      return running.stop('drain');
    }
    if (nowMs - askedAtMs < relayedMs) return;
    log.warn(`${signal} again: killing all workers`);
    running.stop('now');
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  const reload = createReload({
    load: () => loadApart(options.config, environment(), options),
    take: (config) => running.reload(config.node, changedSince(started.nextStart, config.nextStart)),
    refuse: (message) => running.refuseReload(message),
    timeoutMs: reloadTimeoutMs,
  });
  process.on('SIGHUP', () => {
    service.reloading();
    void reload().then(() => service.ready());
  });
}

/**
 * One Ctrl-C may arrive twice, as SIGINT from the terminal and as SIGINT or SIGTERM from what runs the agent (npm, foreman, honcho,
 * overmind): a signal so soon after the first is the same wish.
 */
const relayedMs = 500;

/** A disk that is slower than that may come late for ever. */
const reloadTimeoutMs = 10_000;
