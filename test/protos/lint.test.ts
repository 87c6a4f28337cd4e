import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { needs } from '../needs.ts';

const root = join(import.meta.dirname, '../..');
// buf has 93 MB, half as much as all other packages together: only `.ci/run` installs it.
const buf = join(root, `.ci/node_modules/@bufbuild/buf-linux-${process.arch === 'arm64' ? 'aarch64' : 'x64'}/bin/buf`);

const folder = mkdtempSync(join(tmpdir(), 'pitwarden-lint-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface Config {
  readonly lint: { readonly except: string[]; readonly ignore_only: Readonly<Record<string, string[]>> };
}

function lint(protos: string): { found: string[]; stderr: string } {
  const env = { ...process.env, BUF_CACHE_DIR: join(folder, 'cache') };
  const { stdout, stderr } = spawnSync(buf, ['lint', '--error-format=json'], { cwd: protos, env, encoding: 'utf8' });
  const problems = stdout.split('\n').filter((line) => line !== '');
  return { found: problems.map((line) => JSON.parse(line)).map(({ type, path }) => `${type} ${path}`), stderr };
}

describe('buf lint', needs('buf', existsSync(buf), 'node scripts/setup.mjs --checks'), () => {
  test('finds nothing in the protos that proto/buf.yaml does not excuse', () => {
    expect(lint(join(root, 'proto'))).toEqual({ found: [], stderr: '' });
  });

  test('needs every excuse that proto/buf.yaml makes', () => {
    const strict = join(folder, 'proto');
    cpSync(join(root, 'proto'), strict, { recursive: true });
    const config: Config = parse(readFileSync(join(strict, 'buf.yaml'), 'utf8'));
    const { except, ignore_only, ...rest } = config.lint;
    writeFileSync(join(strict, 'buf.yaml'), stringify({ ...config, lint: rest }));
    const { found, stderr } = lint(strict);
    expect(stderr).toBe('');
    const everywhere = found.map((problem) => problem.split(' ')[0] ?? '').filter((rule) => except.includes(rule));
    expect(new Set(everywhere)).toEqual(new Set(except));
    const here = found.filter((problem) => !except.some((rule) => problem.startsWith(rule)));
    const excused = Object.entries(ignore_only).flatMap(([rule, files]) => files.map((file) => `${rule} ${file}`));
    expect(new Set(here)).toEqual(new Set(excused));
  });
});
