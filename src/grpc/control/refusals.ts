import { status } from '@grpc/grpc-js';
import type { Pool, Worker } from '../../domain/state.ts';
import { isStopping } from '../../domain/state.ts';
import { cutDetails } from '../status.ts';
import type { ControlRequest, ControlSource } from './source.ts';

/** A refusal with its gRPC status. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly code: status;
  readonly details: string;
  constructor(code: status, details: string) {
    super(details);
    this.code = code;
    this.details = details;
  }
}

export function refusalStatus(error: unknown): { code: status; details: string } {
  if (error instanceof Refusal) return { code: error.code, details: cutDetails(error.details) };
  return { code: status.INTERNAL, details: cutDetails(error instanceof Error ? error.message : String(error)) };
}

export function text(request: ControlRequest, key: string): string {
  const value = request[key];
  return typeof value === 'string' ? value : '';
}

export function findPool(source: ControlSource, name: string): Pool {
  const pool = source.state().pools.get(name);
  if (pool !== undefined) return pool;
  const names = [...source.state().pools.keys()].sort().join(', ') || 'none';
  throw new Refusal(status.NOT_FOUND, `pool: expected one of this node's pools (${names}), got "${name}"`);
}

export function writablePool(source: ControlSource, request: ControlRequest): Pool {
  const pool = findPool(source, text(request, 'pool'));
  refuseWhenStopping(source);
  if (pool.phase === 'removed')
    throw new Refusal(status.FAILED_PRECONDITION, `pool ${pool.name} was taken out of the config`);
  return pool;
}

export function refuseWhenStopping(source: ControlSource): void {
  if (isStopping(source.state().node)) throw new Refusal(status.FAILED_PRECONDITION, 'the agent is stopping');
}

/** A new worker should serve, but a drained pool or node must not be opened as a side effect. */
export function refuseWhenDrained(source: ControlSource, pool: Pool): void {
  const resizes = 'ScalePool changes its size without that';
  if (pool.phase === 'draining') {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `pool ${pool.name}: expected one that takes requests, got one that is draining: ResumePool (pitwarden resume ${pool.name}) ends that; ${resizes}`,
    );
  }
  if (source.state().node.phase === 'draining') {
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `pool ${pool.name}: expected one that takes requests, got one of a node that is draining: ResumeNode (pitwarden resume) ends that; ${resizes}`,
    );
  }
}

export function findWorker(source: ControlSource, request: ControlRequest): Worker {
  const id = text(request, 'worker_id');
  const worker = source.state().workers.get(id);
  if (worker !== undefined) return worker;
  throw new Refusal(status.NOT_FOUND, `worker_id: expected a live worker (ListWorkers names them), got "${id}"`);
}
