import type { LinkRequest } from '../../dispatch/worker.ts';
import type { MemoryAccount, MemoryBudget } from '../memory-budget.ts';

/** Payload bytes in one frame, so that a ping waits for little; a larger payload goes alone. */
export const frameMaxBytes = 1024 * 1024;
/** Bytes of a request in a frame beside its payload, if its names are not long. */
const requestOverheadBytes = 256;

/** The state that the links of all workers share. */
export interface FrameBudget {
  readonly budget: MemoryBudget;
  /** Frames with one larger payload that are being written. */
  largeFrames: number;
}

/**
 * The memory of the frame that one link is writing. Until the worker has read the frame, which a stopped worker never does, the
 * frame holds a copy of its payloads. The copy counts towards the budget. A larger payload waits until the budget has room, or
 * until no other link writes such a frame. Frames without requests do not wait, so pings go on.
 */
export class FrameMemory {
  readonly #shared: FrameBudget;
  readonly #account: MemoryAccount;
  #heldBytes = 0;
  #isLarge = false;
  #stopWaiting: (() => void) | null = null;

  constructor(shared: FrameBudget) {
    this.#shared = shared;
    this.#account = shared.budget.account();
  }

  /** Whether a frame that begins with `next` may be written now. */
  hasRoom(next: LinkRequest | undefined): boolean {
    if (next === undefined || !isLarge(next)) return true;
    return this.#shared.largeFrames === 0 || this.#account.fits(next.payload.length);
  }

  /** Calls `onGiven` whenever memory was given back, until `stopWaiting`. */
  wait(onGiven: () => void): void {
    this.#stopWaiting ??= this.#shared.budget.onGiven(onGiven);
  }

  stopWaiting(): void {
    this.#stopWaiting?.();
    this.#stopWaiting = null;
  }

  /** Counts a frame with these requests. */
  hold(batch: readonly LinkRequest[]): void {
    this.#heldBytes = bytesOf(batch);
    this.#isLarge = isLarge(batch[0]);
    if (this.#isLarge) this.#shared.largeFrames += 1;
    this.#account.add(this.#heldBytes);
  }

  /** The frame was written, or never will be. */
  give(): void {
    if (this.#heldBytes === 0) return;
    if (this.#isLarge) this.#shared.largeFrames -= 1;
    const bytes = this.#heldBytes;
    this.#heldBytes = 0;
    this.#account.give(bytes);
  }
}

function bytesOf(requests: readonly LinkRequest[]): number {
  let bytes = 0;
  for (const { payload, command } of requests) bytes += payload.length + command.length + requestOverheadBytes;
  return bytes;
}

function isLarge(request: LinkRequest | undefined): boolean {
  return request !== undefined && request.payload.length > frameMaxBytes;
}
