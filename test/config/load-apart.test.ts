import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import type * as Apart from '../../src/config/load-apart.ts';

// The built file, because Node runs no TypeScript in a thread.
const built = new URL('../../dist/config/load-apart.js', import.meta.url).href;
const { loadApart } = (await import(built)) as typeof Apart;

const folder = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const env = {
  root: false,
  uid: 1000,
  hostname: 'host-7',
  tmpdir: '/tmp',
  home: '/home/ada',
  cwd: folder,
  variables: { PATH: process.env['PATH'] },
};

function write(name: string, pools: number): string {
  writeFileSync(join(folder, 'text.py'), '');
  const pool = (index: number): string =>
    `  p${index}: { app: "text:app", size: 0, env: { A: "${'x'.repeat(300)}" } }\n`;
  writeFileSync(join(folder, name), `pools:\n${Array.from({ length: pools }, (_, index) => pool(index)).join('')}`);
  return name;
}

test('loading in a thread returns the same configuration and the same problems', async () => {
  const good = write('good.yaml', 3);
  expect(await loadApart(good, env, { http: 'off' })).toEqual(await loadConfig(good, env, { http: 'off' }));
  writeFileSync(join(folder, 'bad.yaml'), 'pools: { p: { app: text:app, sise: 1 } }');
  const bad = await loadApart('bad.yaml', env, {});
  expect(bad.ok).toBe(false);
  expect(bad).toEqual(await loadConfig('bad.yaml', env, {}));
});

test('other work continues while a large configuration is loaded', async () => {
  const large = write('large.yaml', 2_400);
  const here = await turnsDuring(loadConfig(large, env, {}));
  const apart = await turnsDuring(loadApart(large, env, {}));
  expect(apart).toBeGreaterThan(10 * here);
}, 60_000);

/** How often the event loop turns until `work` has ended. */
async function turnsDuring(work: Promise<unknown>): Promise<number> {
  let hasEnded = false;
  void work.finally(() => (hasEnded = true));
  let turns = 0;
  for (; !hasEnded; turns++) await nextTurn();
  await work;
  return turns;
}
