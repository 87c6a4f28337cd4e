import { isDeepStrictEqual } from 'node:util';
import type { ClientReadableStream, ServiceError } from '@grpc/grpc-js';
import type { TestClient, WatchView } from './grpc.ts';

type View = Readonly<Record<string, unknown>>;

/** Measured and counted values change without a message of Watch, so a model cannot have them. */
const measured: ReadonlySet<string> = new Set([
  ...['revision', 'memory_available_bytes', 'last_pong_at_ms', 'ping_round_trip_ms', 'missed_pings', 'rss_bytes'],
  ...['pss_bytes', 'memory_bytes', 'memory_source', 'memory_slope_bytes_per_s', 'memory_limit_in_ms', 'cpu'],
  ...['queued', 'queued_bytes', 'in_flight', 'requests_completed', 'requests_failed', 'last_evidence_at_ms'],
  ...['progress', 'progress_message'],
]);

/** The views of a list or a model as a text that is equal for equal ones. */
export function textOf(views: Iterable<object>): string {
  const bare = Array.from(views, (view) =>
    JSON.stringify(Object.fromEntries(Object.entries(view).filter(([name]) => !measured.has(name)))),
  );
  return bare.sort().join('\n');
}

/** What a model shows at one revision of one agent. */
export interface Moment {
  readonly node: string;
  readonly pools: string;
  readonly workers: string;
}

/**
 * A model of a node, kept by Watch alone as docs/control-plane.md says: it goes on from the last whole revision after a broken stream,
 * and begins again with a snapshot when the agent says OUT_OF_RANGE.
 */
export class Mirror {
  /** What the model showed at each whole revision, by agent and revision. */
  readonly moments = new Map<string, Map<number, Moment>>();
  /** How often the agent let it go on, and how often it had to begin again after it had a model. */
  resumed = 0;
  restarted = 0;
  /** Errors that docs/control-plane.md does not explain. */
  readonly failures: string[] = [];
  readonly #client: TestClient;
  readonly #pool: string;
  #agentId = '';
  #revision = 0;
  #node: View | null = null;
  readonly #pools = new Map<string, View>();
  readonly #workers = new Map<string, View>();
  #call: ClientReadableStream<WatchView> | null = null;
  #isClosed = false;

  constructor(client: TestClient, pool = '') {
    this.#client = client;
    this.#pool = pool;
    this.#follow();
  }

  /** Whether everything up to this revision of this agent is known. */
  isAt(agentId: string, revision: number): boolean {
    return this.#agentId === agentId && this.#revision >= revision;
  }

  /** What the model showed at this revision; undefined: it began later. */
  at(agentId: string, revision: number): Moment | undefined {
    let found: Moment | undefined;
    // Revisions are added in their order.
    for (const [whole, moment] of this.moments.get(agentId) ?? []) if (whole <= revision) found = moment;
    return found;
  }

  /** Breaks the stream; the mirror follows again. */
  cut(): void {
    this.#call?.cancel();
  }

  close(): void {
    this.#isClosed = true;
    this.cut();
  }

  #follow(): void {
    if (this.#isClosed) return;
    const from = this.#agentId === '' ? {} : { from_revision: this.#revision, agent_id: this.#agentId };
    const call = this.#client.watch({ pool: this.#pool, bookmark_interval_ms: 200, ...from });
    this.#call = call;
    let isFirst = true;
    call.on('data', (message: WatchView) => {
      // What arrives after a cut is of an earlier stream.
      if (this.#call !== call) return;
      if (isFirst && message.snapshot === undefined) this.resumed += 1;
      isFirst = false;
      this.#apply(message);
    });
    call.on('error', (error: ServiceError) => {
      if (this.#call !== call) return;
      this.#call = null;
      this.#recover(error);
    });
  }

  #recover({ code, details }: ServiceError): void {
    if (code === 11) {
      this.restarted += 1;
      this.#agentId = '';
    } else if (![1, 8, 14].includes(code)) {
      this.failures.push(`${code} ${details}`);
    }
    setTimeout(() => this.#follow(), code === 14 ? 50 : 0);
  }

  #apply(message: WatchView): void {
    const { snapshot, worker, worker_gone, pool, pool_gone, node } = message;
    if (snapshot !== undefined) {
      this.#agentId = message.agent_id;
      this.#node = snapshot.node;
      this.#pools.clear();
      this.#workers.clear();
      for (const each of snapshot.pools) this.#pools.set(each.pool, { ...each });
      for (const each of snapshot.workers) this.#workers.set(each.worker_id, { ...each });
    }
    if (message.agent_id !== this.#agentId) this.failures.push(`a message of ${message.agent_id}`);
    if (worker) this.#workers.set(worker.worker_id, { ...worker });
    if (worker_gone) this.#workers.delete(worker_gone);
    if (pool) this.#pools.set(pool.pool, { ...pool });
    if (pool_gone) this.#pools.delete(pool_gone);
    if (node) this.#node = node;
    if (!message.more) this.#keep(message.revision);
  }

  #keep(revision: number): void {
    this.#revision = revision;
    const ofAgent = this.moments.get(this.#agentId) ?? new Map<number, Moment>();
    this.moments.set(this.#agentId, ofAgent);
    const moment: Moment = {
      node: textOf(this.#node === null ? [] : [this.#node]),
      pools: textOf(this.#pools.values()),
      workers: textOf(this.#workers.values()),
    };
    const before = ofAgent.get(revision);
    // A bookmark may repeat the revision, but nothing may change in it any more.
    if (before !== undefined && !isDeepStrictEqual(before, moment)) {
      this.failures.push(`revision ${revision} changed after a message without more`);
    }
    ofAgent.set(revision, moment);
  }
}
