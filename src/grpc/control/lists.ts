import { status } from '@grpc/grpc-js';
import type { KeptExit } from '../../domain/evidence.ts';
import { assess, observe } from '../../domain/policies/health.ts';
import { noCounters } from '../../domain/policies/policy.ts';
import type { Worker } from '../../domain/state.ts';
import type { Listed } from './paging.ts';
import { pageOf } from './paging.ts';
import { findPool, Refusal, text } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { exitView, explainView, poolView, progressView, registryEntryView, workerView } from './view.ts';

export function registry(source: ControlSource, request: ControlRequest): object {
  const { workers, revision } = source.state();
  const { nodeId, agentId, startedAtMs } = source.node();
  const items = [...workers.values()].flatMap((worker) => {
    const recorded = worker.pid === 0 ? undefined : source.recorded(worker.id);
    return recorded === undefined ? [] : [{ worker, recorded }];
  });
  const { views, next_page_token } = page(request, {
    items,
    keyOf: ({ worker }) => [worker.id],
    view: ({ worker, recorded }) => registryEntryView(worker, recorded, source.toUnixMs),
  });
  const node = { node_id: nodeId, agent_id: agentId, agent_started_at_ms: startedAtMs };
  return { ...node, revision, workers: views, next_page_token };
}

export function page<T>(
  request: ControlRequest,
  listed: Listed<T>,
): { views: readonly object[]; next_page_token: string } {
  const token = text(request, 'page_token');
  const found = pageOf(listed, { size: Number(request['page_size'] ?? 0), token });
  if (found === null) {
    const message = `page_token: expected a next_page_token of this list, got ${JSON.stringify(token.slice(0, 80))}`;
    throw new Refusal(status.INVALID_ARGUMENT, message);
  }
  return { views: found.views, next_page_token: found.nextToken };
}

export function explainWorker(source: ControlSource, request: ControlRequest): object {
  const id = text(request, 'worker_id');
  const live = [...source.state().workers.values()];
  const ended = source.exits('');
  const one = <T>(all: readonly T[], idOf: (each: T) => string): T | undefined => {
    const exact = all.find((each) => idOf(each) === id);
    const found = exact === undefined && id !== '' ? all.filter((each) => idOf(each).startsWith(id)) : [];
    if (found.length > 1) {
      const names = found.slice(0, 5).map(idOf).join(', ');
      throw new Refusal(status.INVALID_ARGUMENT, `worker_id: expected one worker, got ${found.length} (${names}, …)`);
    }
    return exact ?? found[0];
  };
  const worker = one(live, (each) => each.id);
  const pool = worker === undefined ? undefined : source.state().pools.get(worker.pool);
  if (worker !== undefined && pool !== undefined) {
    const verdict = assess(observe(worker, pool.config, source.counters(worker.id) ?? noCounters, source.nowMs()));
    return { worker: viewWorker(source, worker), ...explainView(verdict, source.requestsOf(worker.id)) };
  }
  const exit = one(ended, (each) => each.workerId);
  if (exit !== undefined) return { because: `it has ended: ${exit.reason}`, exit: exitView(exit, source.toUnixMs) };
  const expected = 'expected a live worker (ListWorkers) or one that ended lately (ListExits)';
  throw new Refusal(status.NOT_FOUND, `worker_id: ${expected}, got "${id}"`, 'WORKER_NOT_FOUND');
}

export function viewWorker(source: ControlSource, worker: Worker): object {
  const pool = source.state().pools.get(worker.pool)?.config;
  return {
    ...workerView(worker, pool, source.counters(worker.id), source.toUnixMs),
    ...progressView(source.progressOf(worker.id)),
  };
}

export function viewPool(source: ControlSource, name: string): object {
  const pool = findPool(source, name);
  return poolView(pool, source.state(), source.poolNumbers(name), source.toUnixMs);
}

export function listedPools(source: ControlSource): Listed<string> {
  return { items: source.state().pools.keys(), keyOf: (name) => [name], view: (name) => viewPool(source, name) };
}

export function listedWorkers(source: ControlSource, only: string): Listed<Worker> {
  const { workers } = source.state();
  return {
    items: [...workers.values()].filter(({ pool }) => only === '' || pool === only),
    // Two workers may share a generation: one that an earlier agent left behind, and its successor.
    keyOf: ({ pool, slot, generation, id }) => [pool, slot, generation, id],
    view: (worker) => viewWorker(source, worker),
  };
}

/** The newest exit comes first. */
export function listedExits(source: ControlSource, only: string): Listed<KeptExit> {
  return {
    items: source.exits(only),
    keyOf: ({ exitedAtMs, workerId }) => [-exitedAtMs, workerId],
    view: (exit) => exitView(exit, source.toUnixMs),
  };
}
