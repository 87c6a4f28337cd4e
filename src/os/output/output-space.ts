import { runProcess } from '../process/child-process.ts';

/** Gives the space of what was read back to the file system while the files grow. */
export interface OutputSpace {
  /** False: holes cannot be made here, which was told once. */
  mayPunch(): boolean;
  /** Makes a hole of these bytes; the file keeps its size. False: it did not work. */
  punch(fd: number, from: number, bytes: number): Promise<boolean>;
}

/** A disk that takes longer will not be waited for. */
const timeoutMs = 10_000;

/** Node has no fallocate(2): util-linux's program makes the holes, in the open file, whose name may be gone. */
export function createOutputSpace({ onTrouble }: { onTrouble(message: string): void }): OutputSpace {
  let works = true;
  return {
    mayPunch: () => works,
    punch: async (fd, from, bytes) => {
      const args = ['--punch-hole', '--offset', String(from), '--length', String(bytes), '/proc/self/fd/0'];
      const { ok, why, isShortage } = await runProcess('fallocate', args, { stdin: fd, timeoutMs });
      // One that could not be started now may be later.
      if (!ok && !isShortage && works) {
        works = false;
        onTrouble(`workers' output is cut off where it was read, and not punched out: fallocate: ${why}`);
      }
      return ok;
    },
  };
}
