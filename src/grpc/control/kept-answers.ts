import { status } from '@grpc/grpc-js';
import type { RefusalView } from './refusals.ts';
import { Refusal, refusalOf } from './refusals.ts';

/**
 * The first answer to each `request_id`, for callers that repeat a call because they do not know whether the first one arrived.
 * A repeated call is never carried out again while its id is known. Old answers lose their content before new ones are refused.
 */
export interface KeptAnswers {
  /**
   * Calls `act` at once if the id is new, and keeps its answer or its refusal. Otherwise resolves to the kept one, or waits for it.
   * Rejects with INVALID_ARGUMENT if the id was used for another call, with RESOURCE_EXHAUSTED if there is no room for a new id,
   * and with ALREADY_EXISTS if the content of the answer was dropped to make room.
   */
  once(call: IdentifiedCall, act: () => Promise<object>): Promise<object>;
}

export interface IdentifiedCall {
  /** Who calls. Ids of different owners have nothing to do with each other. */
  readonly owner: string;
  readonly requestId: string;
  readonly method: string;
  /** Of the whole request. */
  readonly digest: string;
}

export interface KeptAnswerBounds {
  /** How long after its end a call is known. */
  readonly keptMs: number;
  /** Ids of all owners. One owner may have as many as are still free, so at most half of them. */
  readonly ids: number;
  /** Length of the kept answers, as JSON. */
  readonly bytes: number;
}

export const keptAnswerBounds: KeptAnswerBounds = { keptMs: 600_000, ids: 20_000, bytes: 16 * 1024 * 1024 };

interface Kept {
  readonly owner: string;
  readonly method: string;
  readonly digest: string;
  /** Present while the call runs. */
  running: Promise<object> | undefined;
  endedAtMs: number;
  /** JSON of an `Outcome`; undefined while the call runs, and once the content was dropped. */
  outcome: string | undefined;
}

type Outcome = { readonly answer: object } | { readonly refusal: RefusalView };

export function createKeptAnswers(nowMs: () => number, bounds: KeptAnswerBounds = keptAnswerBounds): KeptAnswers {
  /** By owner and id. Those that have ended are in the order of their ends. */
  const known = new Map<string, Kept>();
  const idsOf = new Map<string, number>();
  let bytes = 0;

  const dropOutcome = (entry: Kept): void => {
    bytes -= entry.outcome?.length ?? 0;
    entry.outcome = undefined;
  };
  const forgetOld = (): void => {
    for (const [key, entry] of known) {
      if (entry.running !== undefined) continue;
      if (nowMs() - entry.endedAtMs < bounds.keptMs) return;
      known.delete(key);
      dropOutcome(entry);
      const left = (idsOf.get(entry.owner) ?? 1) - 1;
      if (left === 0) idsOf.delete(entry.owner);
      else idsOf.set(entry.owner, left);
    }
  };
  const makeRoom = (): void => {
    for (const entry of known.values()) {
      if (bytes <= bounds.bytes) return;
      dropOutcome(entry);
    }
  };
  const begin = (key: string, { owner, method, digest }: IdentifiedCall): Kept => {
    const own = idsOf.get(owner) ?? 0;
    if (own + 1 > bounds.ids - known.size) throw noRoom(own, known.size, bounds);
    const entry: Kept = { owner, method, digest, running: undefined, endedAtMs: 0, outcome: undefined };
    known.set(key, entry);
    idsOf.set(owner, own + 1);
    return entry;
  };
  const end = (key: string, entry: Kept, outcome: Outcome): void => {
    entry.outcome = JSON.stringify(outcome);
    bytes += entry.outcome.length;
    entry.running = undefined;
    entry.endedAtMs = nowMs();
    known.delete(key);
    known.set(key, entry);
    makeRoom();
  };
  const run = async (key: string, entry: Kept, act: () => Promise<object>): Promise<object> => {
    try {
      const answer = await act();
      end(key, entry, { answer });
      return answer;
    } catch (error) {
      end(key, entry, { refusal: refusalOf(error) });
      throw error;
    }
  };

  return {
    once: async (call, act) => {
      forgetOld();
      const key = JSON.stringify([call.owner, call.requestId]);
      const earlier = known.get(key);
      if (earlier !== undefined) return answerOf(earlier, call);
      const entry = begin(key, call);
      entry.running = run(key, entry, act);
      return entry.running;
    },
  };
}

async function answerOf(earlier: Kept, { requestId, method, digest }: IdentifiedCall): Promise<object> {
  if (earlier.method !== method || earlier.digest !== digest) {
    const used = earlier.method === method ? 'with other content' : `for ${earlier.method}`;
    throw new Refusal(
      status.INVALID_ARGUMENT,
      `request_id: expected a new one for each call, or the same call again; "${requestId}" was used ${used}`,
    );
  }
  if (earlier.running !== undefined) return earlier.running;
  if (earlier.outcome === undefined) {
    throw new Refusal(
      status.ALREADY_EXISTS,
      `request_id: "${requestId}" was answered before; the answer was dropped to make room for others, so read the present state`,
      'ANSWER_LOST',
    );
  }
  const outcome = JSON.parse(earlier.outcome) as Outcome;
  if ('answer' in outcome) return outcome.answer;
  throw new Refusal(outcome.refusal.code, outcome.refusal.details, outcome.refusal.reason);
}

function noRoom(own: number, all: number, { ids, keptMs }: KeptAnswerBounds): Refusal {
  const known = `${own} of this caller and ${all - own} of others, in the last ${keptMs / 60_000} minutes`;
  return new Refusal(
    status.RESOURCE_EXHAUSTED,
    `request_id: expected room for another one among ${ids}, got ${known}; nothing was done: call later, or without request_id`,
  );
}
