import { constants } from 'node:os';

/** What a signal does to the agent; docs/cli.md has the same table for people. */
export type SignalEffect =
  /** Drains and ends; a second one kills. */
  | 'stop'
  /** Reads the configuration again. */
  | 'reload'
  /** Nothing, on purpose: by default it would end the agent, or open Node's debugger. */
  | 'ignored'
  /** Ends the agent at once, as a crash does; its workers live on. */
  | 'fatal'
  /** What the kernel does by default: nothing, or stopping and going on. */
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
  // Node ignores these two: writes to a broken pipe, or beyond the limit on a file's size, fail with an error instead.
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

/** Already taken care of by Node, which refuses listeners for none of them but needs none either. */
const ignoredByNode: ReadonlySet<string> = new Set(['SIGPIPE', 'SIGXFSZ']);

/** V8's profiler samples with SIGPROF. A listener of ours would replace its handler. */
function isProfiled(): boolean {
  return [...process.execArgv, process.env['NODE_OPTIONS'] ?? ''].some((option) => option.includes('--cpu-prof'));
}

/** Ignores what is to be ignored, as far as the system has it. */
export function ignoreSignals(onSignal: (signal: NodeJS.Signals) => void): void {
  for (const [name, effect] of Object.entries(signalEffects)) {
    const signal = name as NodeJS.Signals;
    if (effect !== 'ignored' || ignoredByNode.has(name) || !(signal in constants.signals)) continue;
    if (signal === 'SIGPROF' && isProfiled()) continue;
    process.on(signal, () => onSignal(signal));
  }
}
