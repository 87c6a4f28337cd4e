import type { LedgerEntry } from '../../src/os/storage/ledger.ts';
import type { Random } from './random.ts';

/** How the disk answers: at once, late, with an error, or not until it is another mood. */
export const diskMoods = ['quick', 'slow', 'full', 'hung'] as const;
export type DiskMood = (typeof diskMoods)[number];

/** The disk that has the ledger. What is on it outlives each agent. */
export class Disk {
  readonly entries = new Map<string, LedgerEntry>();
  /** Standing orders, as JSON; empty: none. */
  orders = '';
  /** The control plane's intent, as JSON; empty: none. */
  intent = '';
  #mood: DiskMood = 'quick';
  #hanging: (() => void)[] = [];
  readonly #random: Random;
  readonly #later: (ms: number, work: () => void) => void;

  constructor(random: Random, later: (ms: number, work: () => void) => void) {
    this.#random = random;
    this.#later = later;
  }

  get mood(): DiskMood {
    return this.#mood;
  }

  set mood(mood: DiskMood) {
    this.#mood = mood;
    const hanging = this.#hanging;
    this.#hanging = [];
    for (const goOn of hanging) goOn();
  }

  /** `done` hears whether the disk took it. */
  write(done: (error: Error | null) => void): void {
    if (this.#mood === 'hung') {
      this.#hanging.push(() => this.write(done));
    } else if (this.#mood === 'full') {
      this.#later(1, () => done(new Error('ENOSPC: no space left on device')));
    } else {
      const ms = this.#mood === 'quick' ? 2 * this.#random.next() : this.#random.int(50, 8_000);
      this.#later(ms, () => done(null));
    }
  }
}
