import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** Failures and streams count too: a leak does not depend on how a request ends. */
export const maxRequests: Policy = (worker, _pool, counters) => {
  const limit = worker.limits.maxRequests;
  const spent = counters.completed + counters.failed;
  return limit > 0 && spent >= limit ? { now: 'request_budget', detail: `${spent} requests of ${limit}` } : never;
};
