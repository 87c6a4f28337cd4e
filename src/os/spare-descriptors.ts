import { closeSync, openSync } from 'node:fs';

/*
 * Descriptors that the agent holds in reserve, so that what must not fail, such as the start of a worker, finds some when all
 * others are in use. They are given up for the time of one synchronous call and taken back after it. The reserve is this
 * process's, as descriptors are. Until `holdSpares` is called nothing is held: only the agent needs it.
 */

/** One start opens three files for the output, up to three pipes of two ends, and a pipe of Node's own. */
const spareCount = 16;

const spares: number[] = [];
let isHolding = false;
let uses = 0;

/** Opens the reserve, as far as there is room. */
export function holdSpares(): void {
  isHolding = true;
  refill();
}

export function releaseSpares(): void {
  isHolding = false;
  giveUp();
}

/** Runs `work` with the reserve free for use. What it keeps open is missing from the reserve until others close some. */
export function withSpareDescriptors<T>(work: () => T): T {
  uses += 1;
  giveUp();
  try {
    return work();
  } finally {
    uses -= 1;
    refill();
  }
}

function giveUp(): void {
  for (const fd of spares.splice(0)) closeSync(fd);
}

function refill(): void {
  if (!isHolding || uses > 0) return;
  try {
    while (spares.length < spareCount) spares.push(openSync('/dev/null', 'r'));
  } catch {
    // As many as there are; the next call tries again.
  }
}
