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
  const beganMs = performance.now();
  await loadConfig(large, env, {});
  const hereMs = performance.now() - beganMs;
  let longestMs = 0;
  let isRead = false;
  const reading = loadApart(large, env, {}).then((loaded) => {
    isRead = true;
    return loaded;
  });
  for (let lastMs = performance.now(); !isRead; ) {
    await nextTurn();
    longestMs = Math.max(longestMs, performance.now() - lastMs);
    lastMs = performance.now();
  }
  await reading;
  expect(longestMs).toBeLessThan(hereMs / 2);
}, 60_000);
