import type { Orders } from '../domain/event.ts';
import type { WorkerHandle } from './handle.ts';
import type { WorkerParts } from './parts.ts';
import { messageOf } from './parts.ts';

export function noteReady(parts: WorkerParts, handle: WorkerHandle | undefined, readyAtMs: number): void {
  if (handle === undefined) return;
  handle.entry = { ...handle.entry, state: 'ready', ready_at_boot_ms: readyAtMs };
  handle.readyNoted = renewEntry(parts, handle);
}

/**
 * Best effort: if this fails, the next agent uses the older entry, and for example treats the worker as still starting.
 */
export function renewEntry(
  { ledger, log }: Pick<WorkerParts, 'ledger' | 'log'>,
  { entry }: WorkerHandle,
): Promise<void> {
  return ledger.enter(entry).catch((error: unknown) => {
    log.warn(`the ledger's entry of ${entry.worker_id} could not be renewed: ${messageOf(error)}`);
  });
}

export function noteOrders({ ledger, log }: Pick<WorkerParts, 'ledger' | 'log'>, orders: Orders): void {
  ledger.keepOrders(orders).catch((error: unknown) => {
    log.warn(`sizes, drains and rolls that were ordered will not outlive this agent: ${messageOf(error)}`);
  });
}
