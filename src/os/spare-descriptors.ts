import { closeSync, openSync } from 'node:fs';

/*
 * Descriptors that the agent holds in reserve, so that operations that must not fail, such as starting a worker, still
 * find some when all others are in use. They are released for one synchronous call and reclaimed after it. The reserve
 * is per process, as descriptors are. Only the agent needs it, so nothing is held until `holdSpares` is called.
 */

/** One start opens three files for the output, up to three pipes with two ends each, and one pipe of Node's own. */
const spareCount = 16;

const spares: number[] = [];
let isHolding = false;
let uses = 0;

/** Opens the reserve, or as much of it as the limit allows. */
export function holdSpares(): void {
  isHolding = true;
  refill();
}

export function releaseSpares(): void {
  isHolding = false;
  giveUp();
}

/**
 * Runs `work` with the reserve released. Descriptors that `work` keeps open are missing from the reserve until others
 * are closed.
 */
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
    // No more are available now; the next call tries again.
  }
}
