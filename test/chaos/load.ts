import { pause } from '../../bench/processes.ts';
import type { Random } from '../simulate/random.ts';
import type { ChaosAgent, ChaosError, SubmitResult, SubmitStream } from './agent.ts';

/** What a request is for, which says how it may end. */
export type Purpose = 'plain' | 'late' | 'cancelled' | 'raises' | 'streams' | 'leaks' | 'holds';

/** One request as its caller sees it. */
export interface Fate {
  readonly requestId: string;
  readonly purpose: Purpose;
  readonly idempotent: boolean;
  readonly sentAtMs: number;
  /** Of a stream. */
  readonly items: number[];
  readonly itemsWanted: number;
  ended: boolean;
  error: ChaosError | null;
  workerId: string;
}

export interface Load {
  readonly sent: number;
  readonly ended: number;
  /** Those that have not ended, and those that ended with an error. */
  readonly open: ReadonlyMap<string, Fate>;
  readonly errors: readonly Fate[];
  /** What no caller should ever see. */
  readonly violations: string[];
  /** Ids of requests that must have run exactly once: they were answered, and may not run again. */
  readonly once: ReadonlySet<string>;
  /** Ids of those that may run at most once. */
  readonly atMostOnce: ReadonlySet<string>;
  /** One request of the schedule's own. */
  ask(pool: string, purpose: 'leaks' | 'holds', args: readonly number[]): Fate;
  /** No new requests; resolves when the last has ended. False: it did not, in so long. */
  end(withinMs: number): Promise<boolean>;
}

export interface LoadOptions {
  readonly pools: readonly string[];
  readonly streams: number;
  /** Requests in flight on each stream. */
  readonly depth: number;
  /** Only plain requests, that take no time. */
  readonly plain: boolean;
  /** Ends after so many; 0: when told. */
  readonly requests: number;
}

/** Keeps `depth` requests in flight on each of some Submit streams, and follows every one to its end. */
export function startLoad(agent: ChaosAgent, random: Random, options: LoadOptions): Load {
  const open = new Map<string, Fate>();
  const errors: Fate[] = [];
  const violations: string[] = [];
  const once = new Set<string>();
  const atMostOnce = new Set<string>();
  const calls: SubmitStream[] = [];
  const callOf = new Map<string, SubmitStream>();
  let [sent, ended, ending] = [0, 0, false];

  const isOver = (): boolean => ending || (options.requests > 0 && sent >= options.requests);
  const send = (call: SubmitStream, count: number): void => {
    const items: object[] = [];
    for (let i = 0; i < count && !isOver(); i += 1) items.push(next(call));
    if (items.length > 0) call.write({ items });
  };
  const next = (call: SubmitStream): object => {
    const purpose = options.plain ? 'plain' : drawPurpose(random);
    const { command, args, timeoutMs, itemsWanted } = draw(random, purpose, options.plain);
    const idempotent = purpose === 'plain' && !options.plain && random.chance(0.5);
    const fate = begin(call, purpose, idempotent, itemsWanted);
    if (purpose === 'cancelled') {
      setTimeout(() => call.write({ cancel_request_ids: [fate.requestId] }), random.int(0, 60));
    }
    return item(fate, random.pick(options.pools), command, args, { timeoutMs, sessionId: `s${random.int(0, 20)}` });
  };
  const begin = (call: SubmitStream, purpose: Purpose, idempotent: boolean, itemsWanted: number): Fate => {
    sent += 1;
    const requestId = `r${sent}`;
    const fate: Fate = {
      ...{ requestId, purpose, idempotent, itemsWanted, sentAtMs: Date.now() },
      ...{ items: [], ended: false, error: null, workerId: '' },
    };
    open.set(requestId, fate);
    callOf.set(requestId, call);
    if (!idempotent) atMostOnce.add(requestId);
    return fate;
  };
  const receive = (result: SubmitResult): void => {
    const fate = open.get(result.request_id);
    if (fate === undefined) {
      violations.push(`request ${result.request_id}: expected one end, got another answer after it`);
      return;
    }
    if (result.more) {
      fate.items.push(JSON.parse(String(result.response?.payload)) as number);
      return;
    }
    ended += 1;
    fate.ended = true;
    fate.error = result.error ?? null;
    fate.workerId = result.response?.worker_id ?? result.error?.worker_id ?? '';
    open.delete(result.request_id);
    callOf.delete(result.request_id);
    if (fate.error !== null) errors.push(fate);
    else checkAnswer(fate, String(result.response?.payload), violations);
    if (fate.error === null && !fate.idempotent) once.add(fate.requestId);
  };
  for (let i = 0; i < options.streams; i += 1) {
    const call = agent.submit();
    calls.push(call);
    call.on('error', (error: Error) =>
      violations.push(`stream ${i}: expected no end of its own, got ${error.message}`),
    );
    call.on('data', ({ results }) => {
      let endedNow = 0;
      for (const result of results) {
        const own = isOwn(result.request_id);
        receive(result);
        if (!result.more && !own) endedNow += 1;
      }
      send(call, endedNow);
    });
    send(call, options.depth);
  }
  const owned = new Set<string>();
  const isOwn = (requestId: string): boolean => owned.delete(requestId);
  return {
    get sent() {
      return sent;
    },
    get ended() {
      return ended;
    },
    ...{ open, errors, violations, once, atMostOnce },
    ask: (pool, purpose, args) => {
      const call = calls[0] as SubmitStream;
      const fate = begin(call, purpose, false, 0);
      owned.add(fate.requestId);
      const command = purpose === 'leaks' ? 'leak' : 'hold_gil';
      call.write({ items: [item(fate, pool, command, args, { timeoutMs: 0, sessionId: '' })] });
      return fate;
    },
    end: async (withinMs) => {
      ending = true;
      const endsAtMs = performance.now() + withinMs;
      while (open.size > 0 && performance.now() < endsAtMs) await pause(50);
      for (const call of calls) call.end();
      return open.size === 0;
    },
  };
}

function drawPurpose(random: Random): Purpose {
  const at = random.next();
  if (at < 0.03) return 'late';
  if (at < 0.06) return 'cancelled';
  if (at < 0.08) return 'raises';
  return at < 0.11 ? 'streams' : 'plain';
}

function draw(random: Random, purpose: Purpose, quick: boolean) {
  const none = { timeoutMs: 0, itemsWanted: 0 };
  if (purpose === 'raises') return { command: 'raise_error', args: [], ...none };
  if (purpose === 'late') return { ...none, command: 'work', args: [200], timeoutMs: random.int(1, 120) };
  if (purpose === 'cancelled') return { command: 'work', args: [200], ...none };
  if (purpose === 'streams') {
    const itemsWanted = random.int(0, 50);
    return { command: 'count', args: [itemsWanted], timeoutMs: 0, itemsWanted };
  }
  return { command: 'work', args: [quick || random.chance(0.5) ? 0 : random.int(1, 40)], ...none };
}

function item(
  fate: Fate,
  pool: string,
  command: string,
  args: readonly number[],
  { timeoutMs, sessionId }: { readonly timeoutMs: number; readonly sessionId: string },
): object {
  const payload = Buffer.from(JSON.stringify(args));
  const { requestId, idempotent } = fate;
  const request = { pool, command, payload, request_id: requestId, session_id: sessionId, idempotent };
  return { request, timeout_ms: timeoutMs };
}

/** An answer is its own request's, whole and in order. */
function checkAnswer(fate: Fate, payload: string, violations: string[]): void {
  const { requestId, purpose, items, itemsWanted } = fate;
  const wanted = purpose === 'streams' ? '' : JSON.stringify(requestId);
  if (purpose === 'raises') violations.push(`request ${requestId}: expected its exception, got an answer`);
  else if (payload !== wanted) violations.push(`request ${requestId}: expected ${wanted}, got ${payload.slice(0, 80)}`);
  if (items.length !== itemsWanted || items.some((value, index) => value !== index)) {
    violations.push(`request ${requestId}: expected 0 to ${itemsWanted - 1}, got ${items.slice(0, 60).join(' ')}`);
  }
}
