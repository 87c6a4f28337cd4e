import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import type { LoadEnvironment } from '../../src/config/load.ts';
import { loadConfig } from '../../src/config/load.ts';
import { formatProblems } from '../../src/config/problem.ts';
import { configMaxBytes } from '../../src/config/read-file.ts';

// Files that no one should write, but someone will. A reload must survive each of them.

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const env: LoadEnvironment = {
  ...{ root: false, uid: 1000, hostname: 'host-7', tmpdir: '/tmp', home: '/home/someone', cwd: dir },
  variables: { PATH: process.env['PATH'] },
};

async function problemsOf(file: string): Promise<string> {
  const loaded = await loadConfig(file, env);
  return loaded.ok ? 'none' : formatProblems(loaded.problems);
}

function problems(text: string): Promise<string> {
  writeFileSync(join(dir, 'a.yaml'), text);
  return problemsOf('a.yaml');
}

const pool = (keys: string) => `pools: { a: { app: a:b, ${keys} } }`;
const lines = (count: number, line: (index: number) => string): string =>
  Array.from({ length: count }, (_, index) => line(index)).join('\n');

describe('a text that is not a configuration is refused with a reason:', () => {
  const cases: [string, string, RegExp][] = [
    [
      'an alias within its own value',
      pool('start: { warm_up: x, warm_up_args: &x { y: { z: *x } } }'),
      /an alias is inside the value that it refers to$/,
    ],
    [
      'a pool that contains itself',
      'pools: &p { a: *p }',
      /1:13: not valid here: an alias is inside the value that it refers to$/,
    ],
    ['a merge with itself', 'pools: { a: &a { app: a:b, <<: *a } }', /not valid YAML: /],
    [
      'aliases that multiply',
      pool(`start: { warm_up_args: [${multiplied()}] }`),
      /not valid YAML: Excessive alias count/,
    ],
    ['ten thousand nested open lists', `a: ${'['.repeat(10_000)}`, /nested too deeply/],
    ['nested lists that are closed', pool(`env: ${'['.repeat(5_000)}${']'.repeat(5_000)}`), /nested too deeply/],
    ['nested maps', lines(1_400, (index) => `${' '.repeat(index)}a:`), /nested too deeply|unknown key/],
    ['a list as a key', '? [a, b]\n: 1\npools: {}', /1:3: expected a plain word as a key/],
    ['a pool named __proto__', 'pools: { __proto__: { app: a:b } }', /1:10: pools.__proto__: expected another key/],
    ['a key named __proto__', '__proto__: 1\npools: {}', /1:1: __proto__: expected another key/],
    ['a variable named __proto__', pool('env: { __proto__: x }'), /pools.a.env.__proto__: expected another key/],
    ['a key named constructor', 'constructor: 1\npools: {}', /1:1: constructor: unknown key; known here: /],
    [
      'numbers that JSON lacks',
      pool('start: { warm_up_args: [.nan] }'),
      /numbers that JSON can express, got .inf or .nan/,
    ],
  ];
  test.each(cases)('%s', async (_, text, expected) => {
    expect(await problems(text)).toMatch(expected);
  });
});

function multiplied(): string {
  const tens = ['&a [x, x, x, x, x, x, x, x, x, x]', ...['a', 'b', 'c'].map((name, at) => ten('bcd'[at] ?? '', name))];
  return tens.join(', ');
}

function ten(name: string, of: string): string {
  return `&${name} [${Array.from({ length: 10 }, () => `*${of}`).join(', ')}]`;
}

test.each(['constructor', 'hasownproperty', 'tostring'])('a pool may be named %s', async (name) => {
  writeFileSync(join(dir, 'a.yaml'), `pools: { ${name}: { app: a:b } }`);
  const loaded = await loadConfig('a.yaml', env);
  expect(loaded.ok && [...loaded.config.node.pools.keys()]).toEqual([name]);
});

test('of thirty thousand unknown keys the first hundred are reported, within reasonable time', async () => {
  const startedAtMs = performance.now();
  const reported = (await problems(lines(30_000, (index) => `k${index}: 1`))).split('\n');
  expect(reported).toHaveLength(101);
  expect(reported.at(-1)).toMatch(/^a.yaml: and \d+ more problems$/);
  const duplicates = (await problems(`pools: {}\n${lines(30_000, () => 'k: 1')}`)).split('\n');
  expect(duplicates).toHaveLength(101);
  // Comparing every pair of keys took a minute.
  expect(performance.now() - startedAtMs).toBeLessThan(15_000);
});

test('a message stays short however long a key is', async () => {
  expect((await problems(pool(`${'k'.repeat(100_000)}: 1`))).length).toBeLessThan(1_000);
});

describe('anything but a regular file of bounded size is refused without waiting:', () => {
  test('a FIFO', async () => {
    execFileSync('mkfifo', [join(dir, 'fifo')]);
    expect(await problemsOf('fifo')).toBe('fifo: expected a file, got a FIFO');
  });
  test('an endless device', async () => {
    expect(await problemsOf('/dev/zero')).toBe('/dev/zero: expected a file, got a device');
  });
  test('a folder', async () => {
    expect(await problemsOf('.')).toBe('.: expected a file, got a folder');
  });
  test('a file of a gigabyte, and one that is a byte too long', async () => {
    writeFileSync(join(dir, 'huge'), '');
    for (const bytes of [2 ** 30, configMaxBytes + 1]) {
      truncateSync(join(dir, 'huge'), bytes);
      expect(await problemsOf('huge')).toBe(`huge: expected a file of at most 1MiB, got at least ${bytes} bytes`);
    }
  });
});

describe('a possible secret is never quoted in a message:', () => {
  const secret = 'hunter2';
  const texts: Readonly<Record<string, string>> = {
    'an opening brace': pool(`env: { P: "${secret}{x" }`),
    'a closing brace': pool(`env: { P: "}${secret}" }`),
    'an unknown placeholder': pool(`env: { P: "{${secret}}" }`),
    'a NUL': pool(`env: { P: "${secret}\\0" }`),
    'a list as env': pool(`env: [P=${secret}]`),
    'a text as env': pool(`env: P=${secret}`),
    'a variable and its value as a key': pool(`env: { P=${secret} }`),
    'a list as value': pool(`env: { P: [${secret}] }`),
    'a map as value': pool(`env: { P: { ${secret}: 1 } }`),
    'an unknown alias': pool(`env: { P: *${secret} }`),
    'a tag': pool(`env: { P: !${secret} x }`),
    'text after a value': pool(`env: { P: "x" ${secret} }`),
    'text after a value in a block': `pools:\n  a:\n    app: a:b\n    env:\n      P: "x" ${secret}\n`,
    'a map within a line': `pools:\n  a:\n    app: a:b\n    env:\n      P: x: ${secret}\n`,
    'a reserved character': pool(`env: { P: @${secret} }`),
    'a wrong escape': pool(`env: { P: "\\q${secret}" }`),
    'an unclosed quote': `pools:\n  a:\n    app: a:b\n    env:\n      P: "${secret}\n`,
    'an aliased variable': `pools:\n  b: { app: a:b, env: &e { P: 1 } }\n  a: { app: a:b, env: { Q: *${secret} } }`,
    'arguments that are none': pool(`start: { warm_up_args: ${secret} }`),
  };
  test.each(Object.entries(texts))('%s', async (_, text) => {
    const reported = await problems(text);
    expect(reported).not.toBe('none');
    expect(reported).not.toContain(secret);
  });
});
