import type { MemoryBudget } from '../memory-budget.ts';
import { services } from '../proto.ts';
import type { ApiServer } from '../server.ts';
import type { AttachShared, AttachStream } from './attach.ts';
import { attach } from './attach.ts';
import type { WorkerLinkSource } from './source.ts';

/** Serves WorkerLink. What is being written to workers counts towards `budget`. */
export function addWorkerLink(api: ApiServer, source: WorkerLinkSource, budget: MemoryBudget): void {
  const shared: AttachShared = { source, frames: { budget, largeFrames: 0 }, pending: new Map() };
  api.server.addService(services.WorkerLink, { Attach: (stream: AttachStream) => attach(shared, stream) });
}
