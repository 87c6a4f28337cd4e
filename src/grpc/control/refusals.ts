import { status } from '@grpc/grpc-js';
import type { ErrorReason } from '../../domain/error-reason.ts';
import { reasonOfCode } from '../../domain/error-reason.ts';
import type { Pool, Worker } from '../../domain/state.ts';
import { isStopping } from '../../domain/state.ts';
import { cutDetails, failedStatus } from '../error-details.ts';
import type { ControlRequest, ControlSource } from './source.ts';

/** A refusal with its gRPC status. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly code: status;
  readonly details: string;
  readonly reason: ErrorReason;
  constructor(code: status, details: string, reason: ErrorReason = reasonOfCode(code)) {
    super(details);
    this.code = code;
    this.details = details;
    this.reason = reason;
  }
}

/** What a caller is told of an error. Its fields can be kept as JSON. */
export interface RefusalView {
  readonly code: status;
  readonly details: string;
  readonly reason: ErrorReason;
}

export function refusalOf(error: unknown): RefusalView {
  if (error instanceof Refusal) return { code: error.code, details: cutDetails(error.details), reason: error.reason };
  const details = cutDetails(error instanceof Error ? error.message : String(error));
  return { code: status.INTERNAL, details, reason: 'INTERNAL' };
}

export function refusalStatus(error: unknown): ReturnType<typeof failedStatus> {
  const { code, details, reason } = refusalOf(error);
  return failedStatus(code, details, reason);
}

export function text(request: ControlRequest, key: string): string {
  const value = request[key];
  return typeof value === 'string' ? value : '';
}

export function findPool(source: ControlSource, name: string): Pool {
  const pool = source.state().pools.get(name);
  if (pool !== undefined) return pool;
  const names = [...source.state().pools.keys()].sort().join(', ') || 'none';
  throw new Refusal(
    status.NOT_FOUND,
    `pool: expected one of this node's pools (${names}), got "${name}"`,
    'POOL_NOT_FOUND',
  );
}

export function writablePool(source: ControlSource, request: ControlRequest): Pool {
  const pool = findPool(source, text(request, 'pool'));
  refuseWhenStopping(source);
  if (pool.phase === 'removed')
    throw new Refusal(status.FAILED_PRECONDITION, `pool ${pool.name} was taken out of the config`, 'POOL_REMOVED');
  return pool;
}

export function refuseWhenStopping(source: ControlSource): void {
  if (isStopping(source.state().node))
    throw new Refusal(status.FAILED_PRECONDITION, 'the agent is stopping', 'AGENT_STOPPING');
}

/** A new worker should serve, but a drained pool or node must not be opened as a side effect. */
export function refuseWhenDrained(source: ControlSource, pool: Pool): void {
  const resizes = 'ScalePool changes its size without that';
  if (pool.phase === 'draining') {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `pool ${pool.name}: expected one that takes requests, got one that is draining: ResumePool (pitwarden resume ${pool.name}) ends that; ${resizes}`,
      'POOL_DRAINING',
    );
  }
  if (source.state().node.phase === 'draining') {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `pool ${pool.name}: expected one that takes requests, got one of a node that is draining: ResumeNode (pitwarden resume) ends that; ${resizes}`,
      'NODE_DRAINING',
    );
  }
}

export function findWorker(source: ControlSource, request: ControlRequest): Worker {
  const id = text(request, 'worker_id');
  const worker = source.state().workers.get(id);
  if (worker !== undefined) return worker;
  throw new Refusal(
    status.NOT_FOUND,
    `worker_id: expected a live worker (ListWorkers names them), got "${id}"`,
    'WORKER_NOT_FOUND',
  );
}
