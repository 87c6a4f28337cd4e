import { workerFingerprint } from '../config.ts';
import type { Policy } from './policy.ts';
import { never } from './policy.ts';

/** The pool's config has changed since the worker was started. */
export const outdated: Policy = (worker, pool) =>
  worker.fingerprint === workerFingerprint(pool) ? never : { now: 'config', detail: 'the config of its pool changed' };
