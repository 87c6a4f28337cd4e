import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import type { LoadEnvironment, Overrides } from '../../src/config/load.ts';
import { defaultRuntimeDir, loadConfig } from '../../src/config/load.ts';
import { formatProblems } from '../../src/config/problem.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const env: LoadEnvironment = {
  root: false,
  uid: 1000,
  hostname: 'host-7',
  tmpdir: '/tmp',
  home: '/home/someone',
  cwd: dir,
  variables: { PATH: process.env['PATH'] },
};

function load(text: string, overrides: Overrides = {}, environment = env) {
  writeFileSync(join(dir, 'a.yaml'), text);
  return loadConfig('a.yaml', environment, overrides);
}

/** Problems as `LINE:COLUMN: path: message`. */
async function problems(text: string, overrides: Overrides = {}): Promise<string[]> {
  const loaded = await load(text, overrides);
  return loaded.ok ? [] : formatProblems(loaded.problems).replaceAll('a.yaml:', '').split('\n');
}

const pool = (rest: string) => `pools:\n  text:\n    app: text:app\n    ${rest}\n`;

test('http may leave loopback only with http_allow_remote', async () => {
  expect(await problems('http: 127.0.0.1:1\npools: {}', { http: '0.0.0.0:1' })).toEqual([
    expect.stringMatching(/^--http: expected a loopback address, got "0.0.0.0"/),
  ]);
  for (const http of ['0.0.0.0:1', '[::]:1', 'my-host:1'])
    expect(await problems(`http: "${http}"\nhttp_allow_remote: true\npools: {}`)).toEqual([]);
  for (const http of ['localhost:1', '[::1]:1', '127.9.9.9:1', 'off'])
    expect(await problems(`http: "${http}"\npools: {}`)).toEqual([]);
});

test('the arguments of a warm-up keep their numbers as written', async () => {
  const loaded = await load(
    pool('start: { warm_up: a, warm_up_args: { id: 9007199254740993, x: [1.0, 0x10, "2", null, true] } }'),
  );
  const warmUp = loaded.ok ? loaded.config.node.pools.get('text')?.start.warmUp : undefined;
  expect(warmUp?.payload).toBe('{"id":9007199254740993,"x":[1.0,16,"2",null,true]}');
});

describe('a problem has its location, what was expected and what was found:', () => {
  const cases: [string, string, (string | RegExp)[]][] = [
    ['an empty file', '', [/pools: required: expected a map$/]],
    ['not YAML', 'pools: [', [/^1:9: not valid YAML: /]],
    ['invalid YAML', 'pools:\n\ttext: {}', [/not valid YAML: /]],
    ['a tab as indentation', '- a', [/expected a map of keys, got a list/]],
    ['an unknown key', 'polls: {}\npools: {}', ['1:1: polls: unknown key; did you mean pools?']],
    [
      'an unknown key with a suggestion',
      'xyzzy: 1\npools: {}',
      [/^1:1: xyzzy: unknown key; known here: node, runtime_dir/],
    ],
    ['an unknown key with the known ones', pool('sise: 2'), ['4:5: pools.text.sise: unknown key; did you mean size?']],
    [
      'another spelling of a key',
      pool('recycle: { maxAge: 1h }'),
      ['4:16: pools.text.recycle.maxAge: unknown key; did you mean max_age?'],
    ],
    [
      'a duplicate key',
      pool('size: 1\n    size: 2'),
      ['5:5: pools.text.size: duplicate key: the map has this key already'],
    ],
    ['no app', 'pools: { text: { size: 1 } }', [/pools.text.app: required: expected module:attribute/]],
    ['a wrong app', 'pools: { text: { app: text } }', [/pools.text.app: expected module:attribute .* got "text"/]],
    ['a wrong pool name', 'pools: { Text: { app: a:b } }', [/pools.Text: expected a pool name .* got "Text"/]],
    ['a duration without unit', pool('drain: { timeout: 30 }'), [/got 30 without a unit; did you mean 30s\?/]],
    ['a duration with a wrong unit', pool('drain: { timeout: 30sec }'), [/got "30sec"; did you mean 30s\?/]],
    [
      'a size without unit',
      pool('recycle: { memory: { soft: 400 } }'),
      [/got 400 without a unit; did you mean 400MiB\?/],
    ],
    ['a negative size', pool('size: -1'), [/expected a whole number from 0 to 1000, got -1/]],
    ['a fractional size', pool('size: 1.5'), [/expected a whole number from 0 to 1000, got 1.5/]],
    ['a concurrency of 0', pool('concurrency: 0'), [/expected a whole number from 1 to 1000, got 0/]],
    [
      'neither surge nor unavailable workers',
      pool('recycle: { max_surge: 0 }'),
      [/expected max_surge or max_unavailable to be at least 1/],
    ],
    [
      'a ping timeout below the interval',
      pool('heartbeat: { interval: 5s, timeout: 4s }'),
      [/heartbeat.timeout: expected timeout to be no shorter than interval/],
    ],
    [
      'a busy_limit below the timeout',
      pool('heartbeat: { busy_limit: 1s }'),
      [/busy_limit to be no shorter than timeout/],
    ],
    [
      'a hard limit that does not exceed the soft one',
      pool('recycle: { memory: { soft: 2MiB, hard: 2MiB } }'),
      [/memory.hard: expected hard to be larger than soft/],
    ],
    [
      'a min_lifetime above max_age',
      pool('recycle: { max_age: 1s, min_lifetime: 2s }'),
      [/min_lifetime to be shorter than max_age/],
    ],
    [
      'more samples than `of`',
      pool('recycle: { memory: { samples: 4, of: 3 } }'),
      [/memory.samples: expected samples to be no more than of/],
    ],
    [
      'arguments that are neither map nor list',
      pool('start: { warm_up: a, warm_up_args: 5 }'),
      [/start.warm_up_args: expected a map or a list, got a number/],
    ],
    [
      'a maximum back-off below the minimum',
      pool('restart: { backoff: { min: 2s, max: 1s } }'),
      [/max to be no shorter than min/],
    ],
    [
      'an unknown placeholder',
      pool('env: { A: "{slott}" }'),
      [/unknown placeholder at character 1; expected {slot} or {pool}/],
    ],
    ['an unmatched brace', pool('env: { A: "{" }'), [/unmatched { at character 1; write {{ for a plain one/]],
    ['a reserved variable', pool('env: { PITWARDEN_LINK: a }'), [/expected another name: the agent itself sets/]],
    [
      'a missing folder',
      pool('cwd: nowhere'),
      [/pools.text.cwd: expected a folder, got ".*nowhere", which is not a folder/],
    ],
    [
      'a missing interpreter',
      pool('python: ./nothing'),
      [/pools.text.python: expected a Python interpreter, got ".*nothing"/],
    ],
    ['no interpreter on PATH', pool('python: python9'), [/found no "python9" in /]],
    [
      'TCP on all addresses',
      'listen: 0.0.0.0:50\npools: {}',
      [
        /^1:9: listen: expected a loopback address, got "0.0.0.0": beyond loopback set tls \(cert, key and client_ca\)$/,
      ],
    ],
    ['a port alone', 'http: 9464\npools: {}', [/got only a port; write 127.0.0.1:9464/]],
    [
      'an http address beyond loopback',
      'http: 0.0.0.0:9464\npools: {}',
      [/^1:7: http: expected a loopback address, got "0.0.0.0": .* set http_allow_remote: true$/],
    ],
    [
      'a switch that is neither true nor false',
      'http_allow_remote: on purpose\npools: {}',
      [/http_allow_remote: expected true or false/],
    ],
    ['a port too large', 'http: 127.0.0.1:70000\npools: {}', [/expected a port from 0 to 65535, got 70000/]],
    [
      'a runtime directory whose socket paths are too long',
      `runtime_dir: /tmp/${'x'.repeat(110)}\npools: {}`,
      [
        /expected a folder in which each socket's path has at most 107 bytes, got 126: .*agent.sock; name a shorter one/,
      ],
    ],
    [
      "a runtime directory in which only the workers' socket path is too long",
      `runtime_dir: /${'x'.repeat(94)}\npools: {}`,
      [
        /^1:14: runtime_dir: expected .* at most 107 bytes, got 110: .*link\/link\.sock; name .* with --runtime-dir DIR/,
      ],
    ],
    [
      'an unknown group',
      'socket_group: no-such-group\npools: {}',
      [
        /^1:15: socket_group: expected a group of this host, got "no-such-group", which is not in .*; make it with groupadd/,
      ],
    ],
    ['an invalid group', 'socket_group: -1\npools: {}', [/expected the name of a group or its number, got -1/]],
  ];
  test.each(cases)('%s', async (_, text, expected) => {
    const found = await problems(text);
    expect(found).toHaveLength(expected.length);
    for (const [index, wanted] of expected.entries()) {
      if (typeof wanted === 'string') expect(found[index]).toBe(wanted);
      else expect(found[index]).toMatch(wanted);
    }
  });
});

test('all problems are reported at once, sorted by location', async () => {
  const text = `
http: 1
pools:
  a: { sise: 1, recycle: { memory: { soft: 9 }, max_surge: 0 } }
  b: { app: b:app, heartbeat: { interval: 2s, timeout: 1s }, cwd: nowhere }
`;
  const found = await problems(text);
  expect(found.map((line) => Number(line.split(':')[0]))).toEqual([2, 4, 4, 4, 4, 5]);
  expect(found.join('\n')).toMatch(/http.*\n.*app: required.*\n.*sise.*\n.*max_unavailable.*\n.*soft.*\n.*timeout/);
});

test('flags override the file, and their problems name the flag', async () => {
  const loaded = await load('http: 127.0.0.1:1\npools: {}', {
    http: '127.0.0.1:2',
    runtimeDir: 'r',
    stateDir: '/s',
    listen: 'off',
  });
  expect(loaded).toMatchObject({
    ok: true,
    config: { http: { host: '127.0.0.1', port: 2 }, runtimeDir: join(dir, 'r'), stateDir: '/s', listen: null },
  });
  expect(await problems('pools: {}', { runtimeDir: `/${'x'.repeat(94)}` })).toEqual([
    expect.stringMatching(
      /^--runtime-dir: expected a folder in which each socket's path has at most 107 bytes, got 110/,
    ),
  ]);
  expect(await problems('pools: {}', { listen: 'example.org:1' })).toEqual([
    '--listen: expected a loopback address, got "example.org": beyond loopback set tls (cert, key and client_ca)',
  ]);
});

test('a missing file, a folder and a file that is not UTF-8 are refused', async () => {
  expect(await loadConfig('nothing.yaml', env)).toMatchObject({
    ok: false,
    problems: [{ message: expect.stringContaining('does not exist') }],
  });
  expect(await loadConfig('.', env)).toMatchObject({
    ok: false,
    problems: [{ message: expect.stringContaining('got a folder') }],
  });
  writeFileSync(join(dir, 'binary'), Buffer.from([0xff, 0xfe, 0x00]));
  expect(await loadConfig('binary', env)).toMatchObject({
    ok: false,
    problems: [{ message: expect.stringContaining('UTF-8') }],
  });
});

test('a group is given by name or number, and is optional', async () => {
  const groupOf = async (line: string) => {
    const loaded = await load(`${line}\npools: {}`);
    if (!loaded.ok) return formatProblems(loaded.problems);
    const { socketGroup, controlGroup } = loaded.config;
    return controlGroup === null ? socketGroup : { socketGroup, controlGroup };
  };
  expect(await groupOf('')).toBe(null);
  expect(await groupOf('socket_group: root')).toBe(0);
  expect(await groupOf('socket_group: 4242')).toBe(4242);
  expect(await groupOf("socket_group: '4242'")).toBe(4242);
  expect(await groupOf('control_group: root')).toEqual({ socketGroup: null, controlGroup: 0 });
  expect(await groupOf('socket_group: root\ncontrol_group: 4242')).toEqual({ socketGroup: 0, controlGroup: 4242 });
  expect(await groupOf('control_group: no-such-group')).toMatch(
    /^\S+:1:16: control_group: expected a group of this host/,
  );
});

test("missing keys have their defaults, and paths are relative to the file's folder", async () => {
  const loaded = await load(pool('env: { VERSION: 1.10, FLAG: true, SLOT: "{pool}-{slot}" }'));
  if (!loaded.ok) throw new Error(formatProblems(loaded.problems));
  const { config } = loaded;
  expect(config).toMatchObject({
    path: join(dir, 'a.yaml'),
    runtimeDir: '/tmp/pitwarden-1000',
    stateDir: '/home/someone/.local/state/pitwarden',
    http: { host: '127.0.0.1', port: 9464 },
    listen: null,
    log: { level: 'info', format: 'auto' },
    node: { nodeId: 'host-7', memoryFloorBytes: 256 * 2 ** 20 },
  });
  expect(config.node.pools.get('text')).toEqual({
    name: 'text',
    app: 'text:app',
    python: 'python3',
    cwd: dir,
    // As they were written: 1.10 is not converted to a number.
    env: { VERSION: '1.10', FLAG: 'true', SLOT: '{pool}-{slot}' },
    size: 1,
    concurrency: 1,
    start: { mode: 'exec', timeoutMs: 60_000, parallel: 4, warmUp: null },
    heartbeat: { intervalMs: 2_000, timeoutMs: 10_000, maxMissed: 3, busyLimitMs: 300_000 },
    recycle: {
      maxAgeMs: 0,
      maxRequests: 0,
      maxIdleMs: 0,
      memory: { softBytes: 0, hardBytes: 0, samples: 2, of: 3 },
      jitter: 0.1,
      maxSurge: 1,
      maxUnavailable: 0,
      minLifetimeMs: 1_000,
    },
    restart: { backoffMinMs: 500, backoffMaxMs: 30_000, resetAfterMs: 60_000, quarantineAfter: 3 },
    drain: { timeoutMs: 30_000, killAfterMs: 10_000 },
    orphanTimeoutMs: 60_000,
    queue: { maxRequests: 1_000, maxBytes: 64 * 2 ** 20 },
    request: {
      timeoutMs: 60_000,
      maxAttempts: 3,
      killAfterMs: 30_000,
      affinity: 'off',
      keep: { forMs: 60_000, maxResults: 1_000, maxBytes: 16 * 2 ** 20 },
    },
    limits: { pids: 0, memoryBytes: 0, openFiles: 0 },
    poison: { after: 3, forMs: 600_000 },
    telemetry: { maxSeries: 5_000 },
  });
});

test.each([
  [{ ...env, root: true }, '/run/pitwarden'],
  [{ ...env, variables: { XDG_RUNTIME_DIR: '/run/user/1000' } }, '/run/user/1000/pitwarden'],
  [env, '/tmp/pitwarden-1000'],
])('the default runtime directory', (environment, expected) => {
  expect(defaultRuntimeDir(environment)).toBe(expected);
});
