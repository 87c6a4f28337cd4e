import { constants } from 'node:os';

/** What a signal does to the agent. docs/cli.md shows the same table to users. */
export type SignalEffect =
  /** Drains and exits; a second signal kills: cli/agent-signals.ts. */
  | 'stop'
  /** Reloads the configuration: cli/agent-signals.ts, agent/reload.ts, domain/apply-config.ts. */
  | 'reload'
  /** Ignored on purpose: the default action would end the agent or open Node's debugger. */
  | 'ignored'
  /** Ends the agent at once, like a crash; its workers keep running. */
  | 'fatal'
  /** The kernel's default action: ignore, stop or continue. */
  | 'default';

export const signalEffects: Readonly<
  Record<Exclude<NodeJS.Signals, 'SIGBREAK' | 'SIGLOST' | 'SIGINFO' | 'SIGUNUSED'>, SignalEffect>
> = {
  SIGTERM: 'stop',
  SIGINT: 'stop',
  SIGHUP: 'reload',
  SIGUSR1: 'ignored',
  SIGUSR2: 'ignored',
  SIGALRM: 'ignored',
  SIGVTALRM: 'ignored',
  SIGPROF: 'ignored',
  SIGIO: 'ignored',
  SIGPOLL: 'ignored',
  SIGPWR: 'ignored',
  // Node ignores these two itself: writing to a broken pipe, or beyond the file size limit, fails with an error
  // instead.
  SIGPIPE: 'ignored',
  SIGXFSZ: 'ignored',
  SIGQUIT: 'fatal',
  SIGABRT: 'fatal',
  SIGIOT: 'fatal',
  SIGBUS: 'fatal',
  SIGFPE: 'fatal',
  SIGILL: 'fatal',
  SIGKILL: 'fatal',
  SIGSEGV: 'fatal',
  SIGSTKFLT: 'fatal',
  SIGSYS: 'fatal',
  SIGTRAP: 'fatal',
  SIGXCPU: 'fatal',
  SIGCHLD: 'default',
  SIGCONT: 'default',
  SIGSTOP: 'default',
  SIGTSTP: 'default',
  SIGTTIN: 'default',
  SIGTTOU: 'default',
  SIGURG: 'default',
  SIGWINCH: 'default',
};

/** Node handles these itself, so they need no listener. */
const ignoredByNode: ReadonlySet<string> = new Set(['SIGPIPE', 'SIGXFSZ']);

/** V8's profiler samples with SIGPROF. A listener of ours would replace its handler. */
function isProfiled(): boolean {
  return [...process.execArgv, process.env['NODE_OPTIONS'] ?? ''].some((option) => option.includes('--cpu-prof'));
}

/** Installs listeners for the signals to ignore, as far as the system has them. */
export function ignoreSignals(onSignal: (signal: NodeJS.Signals) => void): void {
  for (const [name, effect] of Object.entries(signalEffects)) {
    const signal = name as NodeJS.Signals;
    if (effect !== 'ignored' || ignoredByNode.has(name) || !(signal in constants.signals)) continue;
    if (signal === 'SIGPROF' && isProfiled()) continue;
    process.on(signal, () => onSignal(signal));
  }
}
