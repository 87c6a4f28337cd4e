import { createHash } from 'node:crypto';
import { status } from '@grpc/grpc-js';
import type { Caller } from './control-answers.ts';
import type { KeptAnswers } from './kept-answers.ts';
import { createKeptAnswers } from './kept-answers.ts';
import { Refusal, text } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';

/** Carries out the changing calls of Control: each `request_id` once, and only at the revision that the caller names. */
export interface Changes {
  /**
   * Calls `act`, unless the call repeats an earlier one, whose answer it then gets. `act` is called in this turn of the event loop,
   * right after `if_revision` was checked. Resolves once the change is stored for the next agent. Rejects with a `Refusal`.
   */
  run<T extends object>(request: ControlRequest, caller: Caller, act: () => T | Promise<T>): Promise<T>;
}

export function createChanges(source: ControlSource): Changes {
  const kept: KeptAnswers = createKeptAnswers(source.nowMs);
  // Each change passes here once; a repeated call gets the kept answer instead.
  const carryOut = async <T extends object>(request: ControlRequest, act: () => T | Promise<T>): Promise<T> => {
    refuseWhenMoved(source, request);
    const answer = await act();
    // An answer stays true even if the agent dies at once.
    await source.ordersKept();
    return answer;
  };
  return {
    run: async <T extends object>(request: ControlRequest, caller: Caller, act: () => T | Promise<T>) => {
      const requestId = text(request, 'request_id');
      if (requestId === '') return carryOut(request, act);
      checkRequestId(requestId);
      const key = { owner: caller.identity?.name ?? '', requestId, method: caller.method, digest: digestOf(request) };
      return (await kept.once(key, () => carryOut(request, act))) as T;
    },
  };
}

/** Refuses a request whose `if_revision` is not the present one. Call it in the same turn of the event loop as the change. */
export function refuseWhenMoved(source: ControlSource, request: ControlRequest): void {
  const { if_revision: expected } = request;
  const { revision } = source.state();
  if (typeof expected !== 'number' || expected === revision) return;
  throw new Refusal(
    status.ABORTED,
    `if_revision: expected the present revision, which is ${revision}, got ${expected}: read the node again, then decide again`,
    'REVISION_CHANGED',
  );
}

const requestIdMaxLength = 128;

function checkRequestId(requestId: string): void {
  if (requestId.length <= requestIdMaxLength && /^[\x21-\x7e]+$/.test(requestId)) return;
  const got = requestId.length > requestIdMaxLength ? `${requestId.length} characters` : JSON.stringify(requestId);
  throw new Refusal(
    status.INVALID_ARGUMENT,
    `request_id: expected at most ${requestIdMaxLength} printable ASCII characters without spaces, got ${got}`,
  );
}

/** Equal for equal requests: proto-loader lists the fields in the order of the proto. */
function digestOf(request: ControlRequest): string {
  return createHash('sha256').update(JSON.stringify(request)).digest('base64');
}
