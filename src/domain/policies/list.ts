import { hung } from './health.ts';
import { idle } from './idle.ts';
import { linkLost } from './link-lost.ts';
import { maxAge } from './max-age.ts';
import { maxRequests } from './max-requests.ts';
import { memoryHard, memorySoft } from './memory.ts';
import { outdated } from './outdated.ts';
import type { Policy } from './policy.ts';

/** Policies that request a planned replacement, most pressing first. */
export const recyclePolicies: readonly Policy[] = [memorySoft, outdated, maxRequests, maxAge, idle];

/** Policies that kill a worker at once. */
export const killPolicies: readonly Policy[] = [memoryHard, hung, linkLost];
