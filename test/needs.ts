import type { TestOptions } from 'vitest';

declare module 'vitest' {
  interface TaskMeta {
    /** What a skipped test needs and this machine lacks. */
    needs?: string;
  }
}

/**
 * Options of tests that need something of the machine: without it they are skipped, and the end of the run lists them.
 * `.ci/run` fails for want of anything that it does not find missing itself, so it has to know each of these words.
 */
export function needs(what: Need, isThere: boolean, why = ''): Pick<TestOptions, 'skip' | 'meta'> {
  return isThere ? {} : { skip: true, meta: { needs: why === '' ? what : `${what}: ${why}` } };
}

export type Need =
  | '/proc'
  | 'buf'
  | 'cc'
  | 'cgroup mounts'
  | 'cgroups'
  | 'chosen pids'
  | 'go'
  | 'hole punching'
  | 'huge files'
  | 'mounts'
  | 'namespaces'
  | 'openssl'
  | 'prometheus'
  | 'Python 3.10'
  | 'root'
  | 'systemd';

export const isRoot = process.getuid?.() === 0;
