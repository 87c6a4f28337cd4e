/**
 * One budget of bytes for all that connections make the agent hold: messages that arrive, requests that wait or run, answers
 * that are not read. It is shared out by what is left: a connection may hold as much as is still free, so one alone gets at
 * most half, ten get an eleventh each, and a small request of a newcomer finds room beside any number of greedy ones.
 */
export interface MemoryBudget {
  readonly maxBytes: number;
  readonly usedBytes: number;
  /** Messages and calls that found no room, since the start. */
  readonly refused: number;
  account(): MemoryAccount;
  /** Calls `listener` whenever bytes are given back, until the returned function is called. */
  onGiven(listener: () => void): () => void;
}

/** What one connection holds. */
export interface MemoryAccount {
  readonly usedBytes: number;
  /** Whether it may hold so many bytes more. */
  fits(bytes: number): boolean;
  /** Holds them if they fit. */
  take(bytes: number): boolean;
  /** Holds what is there already, and cannot be refused. */
  add(bytes: number): void;
  give(bytes: number): void;
}

/** What a caller that found no room is advised to wait. */
export const roomRetryAfterMs = 100;

export function createMemoryBudget(maxBytes: number): MemoryBudget {
  let usedBytes = 0;
  let refused = 0;
  const listeners = new Set<() => void>();
  return {
    maxBytes,
    onGiven: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    get usedBytes() {
      return usedBytes;
    },
    get refused() {
      return refused;
    },
    account: () => {
      let own = 0;
      const add = (bytes: number): void => {
        own += bytes;
        usedBytes += bytes;
      };
      const fits = (bytes: number): boolean => own + bytes <= maxBytes - usedBytes;
      return {
        get usedBytes() {
          return own;
        },
        fits,
        take: (bytes) => {
          if (!fits(bytes)) {
            refused += 1;
            return false;
          }
          add(bytes);
          return true;
        },
        add,
        give: (bytes) => {
          add(-bytes);
          for (const listener of listeners) listener();
        },
      };
    },
  };
}
