import type { MemoryAccount, MemoryBudget } from '../memory-budget.ts';
import type { Status } from './refusals.ts';
import { noRoom } from './refusals.ts';

/**
 * The memory that one call holds of its connection's account, or of an account of its own once it has moved. The service of a
 * stream holds each message from the moment that it handles it, so the call gives the message back then. The message of a unary
 * call is held until the call is over.
 */
export class CallMemory {
  #account: MemoryAccount;
  #budget: MemoryBudget;
  readonly #isStream: boolean;
  #heldBytes = 0;
  /** Sizes of a stream's messages that have arrived and were not handled yet. */
  readonly #unhandled: number[] = [];
  #handledCount = 0;

  constructor(connection: MemoryAccount, budget: MemoryBudget, isStream: boolean) {
    this.#account = connection;
    this.#budget = budget;
    this.#isStream = isStream;
  }

  /** From now on the call is counted in another budget, apart from its connection. */
  moveTo(budget: MemoryBudget): void {
    if (budget === this.#budget) return;
    const heldBytes = this.#heldBytes;
    this.giveAll();
    this.#budget = budget;
    this.#account = budget.account();
    this.add(heldBytes);
  }

  fits(bytes: number): boolean {
    return this.#account.fits(bytes);
  }

  /** Holds the bytes if they fit. Returns why they are refused; undefined: they are held. */
  take(bytes: number, what: string): Status | undefined {
    if (!this.#account.take(bytes)) return noRoom(this.#budget, what, bytes);
    this.#heldBytes += bytes;
    return undefined;
  }

  /** Holds bytes that must not be refused. */
  add(bytes: number): void {
    this.#account.add(bytes);
    this.#heldBytes += bytes;
  }

  give(bytes: number): void {
    // The end of a call gives back everything, so some of these bytes may be gone already.
    const known = Math.min(bytes, this.#heldBytes);
    this.#heldBytes -= known;
    this.#account.give(known);
  }

  giveAll(): void {
    this.give(this.#heldBytes);
  }

  messageArrived(bytes: number): void {
    if (this.#isStream) this.#unhandled.push(bytes);
  }

  messageHandled(): void {
    this.#handledCount += 1;
    this.give(this.#unhandled.shift() ?? 0);
  }

  /** Holds a decompressed message in place of its compressed bytes. `index`: how many messages of the stream came before. */
  messageDecompressed(index: number, bytes: number): void {
    if (!this.#isStream) return;
    const at = index - this.#handledCount;
    const foldedBytes = this.#unhandled[at] ?? 0;
    this.#unhandled[at] = bytes;
    this.give(foldedBytes);
  }
}
