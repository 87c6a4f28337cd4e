/** An event of the node as its history keeps it. Empty texts: there is none. */
export interface StoredEvent {
  readonly atUnixMs: number;
  readonly kind: string;
  readonly pool: string;
  readonly workerId: string;
  readonly reason: string;
  readonly message: string;
  /** Null: none. */
  readonly exitCode: number | null;
  readonly signal: string;
}

/** Which events of the history are asked for. */
export interface HistoryRequest {
  /** Unix ms; 0: from the oldest. Earlier events are left out. */
  readonly sinceMs: number;
  /** Unix ms; 0: no end. Events from then on are left out. */
  readonly untilMs: number;
  /** '': of all. */
  readonly pool: string;
  readonly workerId: string;
  /** Empty: all. */
  readonly kinds: ReadonlySet<string>;
  /** The token of an earlier part; '': from the start. */
  readonly token: string;
}

export interface HistoryPart {
  /** Where the next part begins. */
  readonly token: string;
  /** Nothing was stored behind this part when it was read. */
  readonly isEnd: boolean;
}
