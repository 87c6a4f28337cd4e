/**
 * Watches messages that have arrived in part, because each keeps room in the memory budget for the whole message. A message that
 * has gained less than 64 KiB at each of three checks in a row is given up.
 */
export interface StallWatch {
  /** A part of a message has arrived. */
  add(message: ArrivingMessage): void;
  /** The message is whole, or its call is over. */
  delete(message: ArrivingMessage): void;
}

export interface ArrivingMessage {
  readonly receivedBytes: number;
  /** The agent itself does not read the message for now, so its sender is not to blame. */
  readonly isPaused: boolean;
  giveUpMessage(): void;
}

/** With a check every 10 s, a slower message is slower than a modem. */
const expectedBytes = 64 * 1024;
const slowLooksMax = 3;

interface Seen {
  bytes: number;
  slowLooks: number;
}

export function createStallWatch(lookEveryMs: number): StallWatch {
  const arriving = new Map<ArrivingMessage, Seen>();
  let timer: NodeJS.Timeout | null = null;
  const look = (): void => {
    for (const [message, seen] of arriving) {
      if (message.isPaused || message.receivedBytes - seen.bytes >= expectedBytes) seen.slowLooks = 0;
      else seen.slowLooks += 1;
      seen.bytes = message.receivedBytes;
      if (seen.slowLooks < slowLooksMax) continue;
      arriving.delete(message);
      message.giveUpMessage();
    }
    timer = null;
    if (arriving.size > 0) arm();
  };
  const arm = (): void => {
    timer = setTimeout(look, lookEveryMs).unref();
  };
  return {
    add: (message) => {
      if (arriving.has(message)) return;
      arriving.set(message, { bytes: message.receivedBytes, slowLooks: 0 });
      if (timer === null) arm();
    },
    delete: (message) => {
      if (arriving.size > 0) arriving.delete(message);
    },
  };
}
