import { runProcess } from '../process/child-process.ts';

/** Returns the disk space of output that was read, while the file keeps growing. */
export interface OutputSpace {
  /** False if holes cannot be punched here; that was reported once. */
  mayPunch(): boolean;
  /** Punches a hole; the file keeps its size. False if that failed. */
  punch(fd: number, from: number, bytes: number): Promise<boolean>;
}

/** A slower disk is not waited for. */
const timeoutMs = 10_000;

/**
 * Node has no fallocate(2), so util-linux's `fallocate` punches the holes. It gets the open file, because the file's
 * name may be gone.
 */
export function createOutputSpace({ onProblem }: { onProblem(message: string): void }): OutputSpace {
  let works = true;
  return {
    mayPunch: () => works,
    punch: async (fd, from, bytes) => {
      const args = ['--punch-hole', '--offset', String(from), '--length', String(bytes), '/proc/self/fd/0'];
      const { ok, why, isShortage } = await runProcess('fallocate', args, { stdin: fd, timeoutMs });
      // A shortage may pass: the next try may start the process.
      if (!ok && !isShortage && works) {
        works = false;
        onProblem(`cannot punch holes in workers' output files, truncating them instead: fallocate: ${why}`);
      }
      return ok;
    },
  };
}
