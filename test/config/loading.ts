import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { stringify } from 'yaml';
import type { ConfigKey } from '../../src/config/all-keys.ts';
import type { Config, LoadEnvironment } from '../../src/config/load.ts';
import { loadConfig } from '../../src/config/load.ts';
import { formatProblems } from '../../src/config/problem.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const env: LoadEnvironment = {
  ...{ root: false, uid: 1000, hostname: 'host-7', tmpdir: '/tmp', home: '/home/someone', cwd: dir },
  variables: { PATH: process.env['PATH'] },
};

/**
 * Loads a configuration with one pool `p` and these keys, such as `log.level` or `pools.*.size`. Returns the problems
 * as text.
 */
export async function loadWith(keys: Readonly<Record<string, unknown>>): Promise<Config | string> {
  const document = { pools: { p: { app: 'm:app' } } };
  for (const [name, value] of Object.entries(keys)) put(document, name.replace('*', 'p').split('.'), value);
  writeFileSync(join(dir, 'a.yaml'), stringify(document));
  const loaded = await loadConfig('a.yaml', env);
  return loaded.ok ? loaded.config : formatProblems(loaded.problems);
}

export function nameOf({ path }: ConfigKey): string {
  return path.join('.');
}

function put(map: Record<string, unknown>, [key = '', ...rest]: readonly string[], value: unknown): void {
  if (rest.length === 0) {
    map[key] = value;
    return;
  }
  map[key] ??= {};
  put(map[key] as Record<string, unknown>, rest, value);
}
