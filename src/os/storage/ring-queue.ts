/** The lines of a ring that wait for the disk, and who waits until they are stored. */
export interface RingQueue {
  /** False: there is no room. */
  add(line: Buffer): boolean;
  isEmpty(): boolean;
  /** The oldest lines, at least one and at most `maxBytes` together. They stay in the queue. */
  peek(maxBytes: number): readonly Buffer[];
  /** Removes the oldest lines. `isStored`: for good. */
  take(count: number, isStored: boolean): void;
  /** Whoever waits learns that the lines are not stored. The lines stay. */
  fail(): void;
  /** Resolves to whether all lines that were added before are stored, and the last line was not refused. */
  stored(): Promise<boolean>;
}

interface Waiting {
  /** The number of the last line that is waited for. */
  readonly line: number;
  done(isStored: boolean): void;
}

export function createRingQueue(maxBytes: number): RingQueue {
  let lines: Buffer[] = [];
  let bytes = 0;
  /** Lines that were added ever. */
  let added = 0;
  let isRefusing = false;
  let waiting: Waiting[] = [];
  const answer = (isReady: (each: Waiting) => boolean, isStored: boolean): void => {
    const ready = waiting.filter(isReady);
    waiting = waiting.filter((each) => !isReady(each));
    for (const { done } of ready) done(isStored);
  };
  return {
    add: (line) => {
      isRefusing = bytes + line.length > maxBytes;
      if (isRefusing) return false;
      lines.push(line);
      bytes += line.length;
      added += 1;
      return true;
    },
    isEmpty: () => lines.length === 0,
    peek: (most) => {
      let room = most;
      const fitting = lines.findIndex((line) => {
        room -= line.length;
        return room < 0;
      });
      return fitting === -1 ? [...lines] : lines.slice(0, Math.max(1, fitting));
    },
    take: (count, isStored) => {
      for (const { length } of lines.slice(0, count)) bytes -= length;
      lines = lines.slice(count);
      const taken = added - lines.length;
      answer(({ line }) => line <= taken, isStored);
    },
    fail: () => answer(() => true, false),
    stored: () => {
      if (isRefusing) return Promise.resolve(false);
      if (lines.length === 0) return Promise.resolve(true);
      return new Promise((done) => waiting.push({ line: added, done }));
    },
  };
}
