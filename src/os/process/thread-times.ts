import { readdirSync } from 'node:fs';
import { readText } from '../storage/read-text.ts';

/** How many threads are read at once: a few milliseconds. */
const threadsMax = 256;

/**
 * Run time that a thread may use each time it is given a CPU, before it counts as working. A thread that waits for Python's GIL wakes
 * every 0.2 ms in our workers (`_executor.py`), sees that the GIL is taken, and waits on: 10 to 40 µs each time, which make up to 13 %
 * of a core. A thread that computes runs for a millisecond and more.
 */
const wakeNs = 100_000;

export interface ThreadTime {
  /** How long it has run. */
  readonly ranNs: number;
  /** How often it was given a CPU. */
  readonly slices: number;
}

/** By process and thread id. */
export type ThreadTimes = ReadonlyMap<string, ThreadTime>;

/**
 * Reads how long the threads of some processes have run (/proc/PID/task/TID/schedstat, see sched-stats.rst of the kernel). Null if the kernel does not tell, or if there
 * are more than 256 threads.
 */
export function readThreadTimes(pids: Iterable<number>): ThreadTimes | null {
  const times = new Map<string, ThreadTime>();
  for (const pid of pids) {
    for (const tid of tasksOf(pid)) {
      if (times.size === threadsMax) return null;
      const [ran, , slices] = readText(`/proc/${pid}/task/${tid}/schedstat`).split(' ');
      // Otherwise the thread has ended, or the kernel has no such file for any thread.
      if (slices !== undefined) times.set(`${pid}/${tid}`, { ranNs: Number(ran), slices: Number(slices) });
    }
  }
  return times.size === 0 ? null : times;
}

function tasksOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    // The process has ended, or belongs to another user.
    return [];
  }
}

/** The longest time that one thread worked between two readings, in milliseconds. */
export function busiestMs(before: ThreadTimes, after: ThreadTimes): number {
  let mostNs = 0;
  for (const [thread, { ranNs, slices }] of after) {
    const earlier = before.get(thread) ?? { ranNs: 0, slices: 0 };
    mostNs = Math.max(mostNs, ranNs - earlier.ranNs - wakeNs * (slices - earlier.slices));
  }
  return mostNs / 1e6;
}
