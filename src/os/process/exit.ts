/**
 * Ends this process, whatever still runs in it. `isStuck`: one of its threads hangs in a system call, such as a write
 * to a disk that does not respond. `process.exit` waits for all threads, so a signal must end the process: SIGTERM,
 * which a service manager counts as a clean exit, or SIGKILL, which it counts as a failure.
 */
export function exitProcess(code: number, isStuck: boolean): never {
  if (isStuck) {
    process.removeAllListeners('SIGTERM');
    process.kill(process.pid, code === 0 ? 'SIGTERM' : 'SIGKILL');
    // Still running: the first process of a pid namespace ignores its own signals.
  }
  process.exit(code);
}
