import type { Authentication, HelloClaim, LinkRefusal, WorkerHello } from '../grpc/worker-link/source.ts';
import { acceptToken, isRepeatedToken } from '../grpc/worker-link/token.ts';
import type { LedgerEntry } from '../os/storage/ledger.ts';
import { linkLimitsOf } from './attach.ts';
import type { WorkerHandle, WorkerHandles } from './handle.ts';
import type { WorkerParts } from './parts.ts';

/** Decides whether a hello may attach. If so, its token is used up. */
export function authenticate(
  handles: WorkerHandles,
  hello: WorkerHello,
  { payloadMaxBytes, tasksOfAll }: Pick<WorkerParts, 'payloadMaxBytes' | 'tasksOfAll'>,
): Authentication {
  const proof = prove(handles, hello);
  if (!proof.ok) return proof;
  const { handle, verifier } = proof;
  if (handle.link !== null) {
    const message = 'a second hello was refused: this worker is attached, so another process may have its secret';
    return { ok: false, reason: 'already_attached', message, worker: nameOf(handle) };
  }
  handle.entry = { ...handle.entry, verifier };
  handle.tasksSent = tasksOfAll();
  return {
    ok: true,
    welcome: {
      // The concurrency that the worker was started with: it cannot change.
      concurrency: handle.entry.concurrency,
      ...linkLimitsOf(handle.pool, handle.tasksSent),
      payload_max_bytes: payloadMaxBytes,
    },
  };
}

/** `verifier`: verifies the worker's next token. */
type Proof =
  | { readonly ok: true; readonly handle: WorkerHandle; readonly verifier: string }
  | ({ readonly ok: false } & LinkRefusal);

/** Finds out whose hello it is, without using up the token. */
export function prove(handles: WorkerHandles, { worker_id: workerId, token }: HelloClaim): Proof {
  const handle = handles.get(workerId);
  if (handle === undefined) {
    const got = JSON.stringify(workerId.slice(0, 80));
    return { ok: false, reason: 'unknown_worker', message: `worker_id: expected a worker of this agent, got ${got}` };
  }
  const verifier = nextVerifier(handle.entry, token);
  if (verifier !== null) return { ok: true, handle, verifier };
  const message = 'a hello was refused: expected a token that only this worker can make, got another';
  return { ok: false, reason: 'wrong_token', message, worker: nameOf(handle) };
}

function nameOf({ workerId, pool }: WorkerHandle): { readonly id: string; readonly pool: string } {
  return { id: workerId, pool: pool.name };
}

/** Null if the token is not this worker's. */
function nextVerifier({ verifier, repeats_token }: LedgerEntry, token: string): string | null {
  if (!repeats_token) return acceptToken(token, verifier);
  return isRepeatedToken(token, verifier) ? verifier : null;
}
