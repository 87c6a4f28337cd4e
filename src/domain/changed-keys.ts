import type { PoolConfig } from './config.ts';

/** Keys of a pool's configuration whose change replaces its workers: those that `workerFingerprint` is made of. */
export const replacingKeys: ReadonlySet<string> = new Set([
  ...['app', 'python', 'cwd', 'env', 'concurrency', 'start.mode'],
  ...['limits.pids', 'limits.memory', 'limits.open_files'],
]);

/** Values that have parts but are one key of the file, or two that are set together. */
const whole: ReadonlySet<string> = new Set(['env', 'start.warm_up']);

/** Names that differ from those in the file by more than spelling. */
const fileNames: Readonly<Record<string, string>> = {
  'restart.backoff_min': 'restart.backoff.min',
  'restart.backoff_max': 'restart.backoff.max',
  'request.affinity': 'request.session_affinity',
};

/** The keys whose values differ, such as `drain.timeout`, as the configuration file names them. */
export function changedKeys(before: PoolConfig, after: PoolConfig): string[] {
  return changedBelow(before, after, '');
}

type Section = Readonly<Record<string, unknown>>;

function changedBelow(before: object, after: object, prefix: string): string[] {
  const now = after as Section;
  return Object.entries(before).flatMap(([property, value]) => {
    const key = `${prefix}${keyOf(property)}`;
    const next = now[property];
    if (!whole.has(key) && isSection(value) && isSection(next)) return changedBelow(value, next, `${key}.`);
    return sameValue(value, next) ? [] : [fileNames[key] ?? key];
  });
}

/** `maxUnavailable` → `max_unavailable`. Units are part of the property's name only; `max_bytes` is a key. */
function keyOf(property: string): string {
  const bare = property.replace(/Ms$/, '').replace(/(?<!^max)Bytes$/, '');
  return bare.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function isSection(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}

/** The order of an environment's variables does not matter. */
function sameValue(a: unknown, b: unknown): boolean {
  return JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
}

function sorted(value: unknown): unknown {
  return isSection(value) ? Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)) : value;
}
