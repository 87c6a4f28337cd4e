import type { IntentFile } from '../../src/os/storage/intent-file.ts';
import type { Ledger } from '../../src/os/storage/ledger.ts';
import type { Disk } from './disk.ts';
import type { Random } from './random.ts';

/** As in src/os/storage/ledger.ts. */
const writesAtOnce = 2;
const writeTimeoutMs = 5_000;

export interface SimulatedLedger extends Ledger {
  /** All that was asked for is on the disk. */
  isWritten(): boolean;
  /** The newest entry of the worker could not be written, or not in time. */
  hasFailed(workerId: string): boolean;
}

interface Write {
  readonly path: string;
  readonly apply: () => void;
  readonly done: (error: Error | null) => void;
}

/**
 * One agent's ledger: the writes of one file in turn, two at once, and each given up after five seconds. `settling` is called
 * when somebody waits for a promise that has been settled.
 */
export function createLedger(
  disk: Disk,
  later: (ms: number, work: () => void) => void,
  settling: () => void,
): SimulatedLedger {
  const waiting: Write[] = [];
  const underway = new Set<string>();
  const failed = new Set<string>();
  /** Orders that are not on the disk. */
  let unkept = '';

  const begin = (): void => {
    while (underway.size < writesAtOnce) {
      const at = waiting.findIndex(({ path }) => !underway.has(path));
      const [write] = at < 0 ? [] : waiting.splice(at, 1);
      if (write === undefined) return;
      underway.add(write.path);
      // Not of an agent that has died meanwhile.
      disk.write((error) => later(0, () => finish(write, error)));
    }
  };
  const finish = ({ path, apply, done }: Write, error: Error | null): void => {
    underway.delete(path);
    if (error === null) apply();
    done(error);
    begin();
  };
  const write = (path: string, apply: () => void): Promise<void> =>
    new Promise((resolve, reject) => {
      const done = (error: Error | null): void => {
        settling();
        if (error === null) resolve();
        else reject(error);
      };
      later(writeTimeoutMs, () => done(new Error('expected the disk to take it within 5 s')));
      waiting.push({ path, apply, done });
      begin();
    });
  const keepOrders: Ledger['keepOrders'] = (orders) => {
    const text = JSON.stringify(orders);
    unkept = text;
    return write('orders', () => {
      if (unkept === '') return;
      disk.orders = unkept;
      unkept = '';
    });
  };
  return {
    enter: async (entry) => {
      const { worker_id: workerId } = entry;
      failed.delete(workerId);
      try {
        await write(workerId, () => disk.entries.set(workerId, entry));
      } catch (error) {
        failed.add(workerId);
        throw error;
      }
      if (unkept !== '') keepOrders(JSON.parse(unkept)).catch(() => undefined);
    },
    forget: (workerId) => {
      write(workerId, () => disk.entries.delete(workerId)).catch(() => undefined);
    },
    keepOrders,
    hasFailed: (workerId) => failed.has(workerId),
    isWritten: () => underway.size + waiting.length === 0 && unkept === '',
    read: () => ({ entries: [], orders: null, setAside: [], foreign: [] }),
    ordersKept: () => Promise.resolve(),
    forgetOrders: () => undefined,
    settled: () => Promise.resolve(),
  };
}

/** One agent's intent file. The agent may die between the write and what it does next. */
export function createIntentFile(
  disk: Disk,
  random: Random,
  later: (ms: number, work: () => void) => void,
  settling: () => void,
): IntentFile {
  let isWriting = false;
  return {
    read: () => ({ intent: null, problem: '' }),
    store: (intent) =>
      new Promise((resolve, reject) => {
        const done = (error: Error | null): void => {
          settling();
          if (error === null) resolve();
          else reject(error);
        };
        if (isWriting) return done(new Error('an earlier write still waits for the disk'));
        isWriting = true;
        later(writeTimeoutMs, () => done(new Error('expected the disk to take it within 5 s')));
        disk.write((error) =>
          later(0, () => {
            isWriting = false;
            if (error === null) disk.intent = JSON.stringify(intent);
            later(random.pick([0, 0, 5, 200]), () => done(error));
          }),
        );
      }),
  };
}
