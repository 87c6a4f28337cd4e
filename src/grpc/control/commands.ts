import { status } from '@grpc/grpc-js';
import type { Command } from '../../domain/event.ts';
import { viewPool, viewWorker } from './lists.ts';
import { findWorker, Refusal, refuseWhenDrained, refuseWhenStopping, writablePool } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { nodeView } from './view.ts';

const maxPoolSize = 1_000;

export function scalePool(source: ControlSource, request: ControlRequest): object {
  const pool = writablePool(source, request);
  const { size } = request;
  // Size 0 stops all workers, so an absent size is refused: the request may be empty, or name the field wrongly.
  if (typeof size !== 'number' || size > maxPoolSize) {
    throw new Refusal(status.INVALID_ARGUMENT, `size: expected 0 to ${maxPoolSize}, got ${size ?? 'none'}`);
  }
  source.command({ type: 'scale', pool: pool.name, size });
  return viewPool(source, pool.name);
}

export function startWorker(source: ControlSource, request: ControlRequest): object {
  const pool = writablePool(source, request);
  refuseWhenDrained(source, pool);
  if (pool.size >= maxPoolSize) {
    throw new Refusal(
      status.INVALID_ARGUMENT,
      `pool ${pool.name}: expected fewer than ${maxPoolSize} workers, got ${pool.size}`,
    );
  }
  const known = new Set(source.state().workers.keys());
  source.command({ type: 'scale', pool: pool.name, size: pool.size + 1 });
  const slots = source.state().pools.get(pool.name)?.slots ?? new Map();
  const slot = [...slots.keys()].find((index) => !pool.slots.has(index)) ?? 0;
  const worker = [...source.state().workers.values()].find(
    (w) => w.pool === pool.name && w.slot === slot && !known.has(w.id),
  );
  return { pool: viewPool(source, pool.name), slot, worker_id: worker?.id ?? '' };
}

export function onWorker(source: ControlSource, request: ControlRequest, make: (workerId: string) => Command): object {
  const worker = findWorker(source, request);
  refuseWhenStopping(source);
  source.command(make(worker.id));
  return viewWorker(source, source.state().workers.get(worker.id) ?? worker);
}

export function onNode(source: ControlSource, command: Command): object {
  refuseWhenStopping(source);
  source.command(command);
  return nodeView(source.state(), source.node());
}
