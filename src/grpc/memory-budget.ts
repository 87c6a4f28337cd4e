/**
 * One budget of bytes for everything that connections make the agent hold: messages that arrive, requests that wait or run,
 * answers that are unread. Each connection may hold as much as is still free. So a single connection gets at most half of the
 * budget, ten get an eleventh each, and a small request on a new connection finds room beside any number of greedy ones.
 */
export interface MemoryBudget {
  /** What a refused sender is told: the config key, or whose memory it is. */
  readonly name: string;
  readonly maxBytes: number;
  readonly usedBytes: number;
  /** Messages and calls that were refused for want of room, since the start. */
  readonly refused: number;
  /** `accountMaxBytes`: the most that the account may hold, whatever is free. */
  account(accountMaxBytes?: number): MemoryAccount;
  /** Calls `listener` whenever bytes are given back, until the returned function is called. */
  onGiven(listener: () => void): () => void;
}

/** The bytes that one connection holds. */
export interface MemoryAccount {
  readonly usedBytes: number;
  /** Whether the connection may hold `bytes` more. */
  fits(bytes: number): boolean;
  /** Holds the bytes if they fit. */
  take(bytes: number): boolean;
  /** Holds bytes that exist already and cannot be refused. */
  add(bytes: number): void;
  give(bytes: number): void;
}

/** How long a refused caller is advised to wait. */
export const roomRetryAfterMs = 100;

export function createMemoryBudget(maxBytes: number, name = 'message.budget'): MemoryBudget {
  let usedBytes = 0;
  let refused = 0;
  const listeners = new Set<() => void>();
  return {
    name,
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
    account: (accountMaxBytes = maxBytes) => {
      let own = 0;
      const add = (bytes: number): void => {
        own += bytes;
        usedBytes += bytes;
      };
      const fits = (bytes: number): boolean => own + bytes <= Math.min(maxBytes - usedBytes, accountMaxBytes);
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
