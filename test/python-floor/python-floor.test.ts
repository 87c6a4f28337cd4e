import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { needs } from '../needs.ts';

const checkout = fileURLToPath(new URL('../..', import.meta.url));
const python310 = join(checkout, '.ci/node_modules/pyodide');

// Neither mypy nor ruff knows what fails as 3.10 imports a module: a generic class that has no brackets there, for one.
test('Python 3.10 parses all Python here, imports every module of the SDK and evaluates its annotations', {
  ...needs('Python 3.10', existsSync(python310), 'node scripts/setup.mjs --checks'),
  timeout: 60_000,
}, () => {
  const [venvPython = ''] = readdirSync(join(checkout, '.venv/lib'));
  const sitePackages = join(checkout, '.venv/lib', venvPython, 'site-packages');
  const script = join(checkout, 'test/python-floor/run.mjs');
  const output = execFileSync(process.execPath, [script, python310, checkout, sitePackages], { encoding: 'utf8' });
  const [version, ...failures] = output.trim().split('\n');
  expect(version).toMatch(/^3\.10\./);
  expect(failures).toEqual([]);
});
