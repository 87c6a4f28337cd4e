/**
 * Ends this process, whatever still runs in it. `isStuck`: a thread of it hangs in a call of the kernel, such as a write to
 * a disk that does not answer. `process.exit` waits for all threads, so that then a signal ends the process: SIGTERM, which a service
 * manager takes for a clean end, or SIGKILL, which it takes for a failure.
 */
export function exitProcess(code: number, isStuck: boolean): never {
  if (isStuck) {
    process.removeAllListeners('SIGTERM');
    process.kill(process.pid, code === 0 ? 'SIGTERM' : 'SIGKILL');
    // Still here: the first process of a pid namespace is not ended by its own signals.
  }
  process.exit(code);
}
