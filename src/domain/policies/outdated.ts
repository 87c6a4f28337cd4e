import { workerFingerprint } from '../config.ts';
import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** The pool's config no longer is what the worker was born with. */
export const outdated: Policy = (worker, pool) =>
  worker.fingerprint === workerFingerprint(pool) ? never : { now: 'config', detail: 'the config of its pool changed' };
