import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** Everything that ran counts, failures and streams too: a leak does not care how a request ended. */
export const maxRequests: Policy = (worker, _pool, counters) => {
  const limit = worker.limits.maxRequests;
  const spent = counters.completed + counters.failed;
  return limit > 0 && spent >= limit ? { now: 'request_budget', detail: `${spent} requests of ${limit}` } : never;
};
