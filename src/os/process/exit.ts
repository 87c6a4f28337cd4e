import { startProcess } from './child-process.ts';

/** How long `process.exit` may take. */
const exitMaxMs = 5_000;
const lookEveryMs = 200;

/**
 * Ends this process, whatever still runs in it. `isStuck`: one of its threads is known to hang in a system call, such as a write
 * to a disk that does not respond. `process.exit` waits for all threads, so a signal must end the process: SIGTERM, which a
 * service manager counts as a clean exit, or SIGKILL, which it counts as a failure.
 */
export function exitProcess(code: number, isStuck: boolean): never {
  const signal = code === 0 ? 'SIGTERM' : 'SIGKILL';
  // Whoever sends another SIGTERM to a process that does not end shall end it.
  process.removeAllListeners('SIGTERM');
  if (isStuck) {
    process.kill(process.pid, signal);
    // Still running: the first process of a pid namespace ignores its own signals.
  } else {
    killUnlessGone(signal);
  }
  process.exit(code);
}

/**
 * A thread may hang that we do not know of. And `process.exit` itself can: it waits for V8's compiler threads, and one of these may
 * be waiting for a garbage collection by the main thread (nodejs/node#54918; seen with Node 24). So a shell looks on, and sends
 * the signal if this process is still its parent after 5 s.
 *
 * Under systemd there is no need: its watchdog and TimeoutStopSec= end a process that hangs, and it would report the shell, which
 * outlives its parent for a moment, as left behind.
 */
function killUnlessGone(signal: NodeJS.Signals): void {
  if (process.env['SYSTEMD_EXEC_PID'] === String(process.pid)) return;
  // A shell that starts late has another parent already, which is none of its business.
  const script = `
parent=$1
is_there() {
  read -r stat <"/proc/$$/stat" || exit
  set -- \${stat##*) }
  [ "\${2:-}" = "$parent" ] || exit
}
is_there
for signal in ${signal.slice(3)} KILL; do
  looks=0
  while [ $looks -lt ${exitMaxMs / lookEveryMs} ]; do
    sleep ${lookEveryMs / 1_000} || exit
    is_there
    looks=$((looks + 1))
  done
  kill -s $signal "$parent"
done`;
  const env = { PATH: process.env['PATH'] || '/usr/bin:/bin' };
  startProcess('/bin/sh', ['-c', script, 'sh', String(process.pid)], { env, cwd: '/', detached: true }).unref();
}
