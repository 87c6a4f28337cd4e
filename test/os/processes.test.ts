import { spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { workerEnvironment } from '../../src/os/process/environment.ts';
import type { ProcessIdentity } from '../../src/os/process/identity.ts';
import { identify, isAlive } from '../../src/os/process/identity.ts';
import { sampleTree } from '../../src/os/process/memory.ts';
import { signalGroup } from '../../src/os/process/send-signal.ts';
import { spawnWorker } from '../../src/os/process/spawn-worker.ts';
import { sweepTree } from '../../src/os/process/tree.ts';
import { lockDirectory } from '../../src/os/storage/agent-lock.ts';
import { clearRuntimeDirectory, prepareRuntimeDirectory } from '../../src/os/storage/directories.ts';
import { restrictSocket } from '../../src/os/storage/socket-files.ts';
import { isProcessRunning, shellWorker, testOutput } from './shell-worker.ts';

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const worker = (script: string, workerId = 'w-0', env: Record<string, string> = {}) =>
  shellWorker(dir, script, { workerId, env });

test('a worker leads its own session and group, in its folder and with only its environment', async () => {
  const { spawned, identity, line } = await worker('pwd; env | sort; exit 7', 'w-1', { COLOUR: 'green' });
  expect(await line(1)).toBe(dir);
  const stat = (await line(1)) && identity.pid;
  expect(await spawned.exited).toEqual({ code: 7, signal: null });
  expect(stat).toBeGreaterThan(0);
  const variables = spawned
    .lastLines()
    .slice(1)
    .map((each) => each.split('=')[0]);
  expect(variables.filter((name) => !['PWD', 'OLDPWD', '_', 'SHLVL'].includes(name ?? ''))).toEqual([
    'COLOUR',
    'PATH',
    'PITWARDEN_WORKER_ID',
  ]);
});

test('a worker inherits paths and locale from the agent, but no secrets', () => {
  const base = { PATH: '/bin', AWS_SECRET_ACCESS_KEY: 'x', LC_ALL: 'C', PITWARDEN_TOKEN: 'y', HOME: '/h' };
  expect(workerEnvironment({ A: '1' }, base)).toEqual({
    PATH: '/bin',
    LC_ALL: 'C',
    HOME: '/h',
    PYTHONUNBUFFERED: '1',
    A: '1',
  });
});

test.each([
  [{ command: './nothing', cwd: dir }, /could not start \.\/nothing in .*: no such file or folder/],
  [{ command: 'sh', cwd: join(dir, 'nowhere') }, /could not start sh in .*nowhere: no such file or folder/],
])('a program that cannot be started returns the reason', async (options, message) => {
  const spawned = spawnWorker({
    args: [],
    cgroup: null,
    secret: Buffer.alloc(32),
    env: {},
    nowMs: () => 0,
    onLine: () => undefined,
    onDropped: () => undefined,
    onSkipped: () => undefined,
    workerId: 'w-none',
    outputDirectory: testOutput(dir),
    ...options,
  });
  expect(await spawned.started).toMatchObject({ ok: false, message: expect.stringMatching(message) });
  expect(readdirSync(join(dir, 'output')).filter((name) => name.startsWith('w-none'))).toEqual([]);
});

test('a sweep kills the group and a daemon in another session, and nothing else', async () => {
  const foreign = spawn('sleep', ['1000'], { stdio: 'ignore' });
  const daemon = 'setsid sh -c "sleep 1000 & echo \\$!; sleep 1000" & ';
  const { spawned, identity, line } = await worker(`sleep 1000 & echo $!; ${daemon} wait`);
  const pids = [identity.pid, Number(await line(1)), Number(await line(2))];
  expect(pids.map(isProcessRunning)).toEqual([true, true, true]);
  // The leader dies first, so that no parent leads to its children.
  process.kill(identity.pid, 'SIGKILL');
  expect(await spawned.exited).toEqual({ code: null, signal: 'SIGKILL' });
  expect(await sweepTree({ identity, workerId: 'w-0' }, { timeoutMs: 5_000 })).toMatchObject({ survivors: [] });
  expect(pids.map(isProcessRunning)).toEqual([false, false, false]);
  expect(isProcessRunning(foreign.pid ?? 0)).toBe(true);
  foreign.kill();
});

test('a process with the same pid but another start time is not signalled', async () => {
  const { spawned, identity } = await worker('sleep 1000', 'w-2');
  const earlier: ProcessIdentity = { ...identity, startTime: String(Number(identity.startTime) - 1) };
  expect(isAlive(earlier)).toBe(false);
  signalGroup(earlier, 'SIGKILL');
  expect(isAlive(identity)).toBe(true);
  signalGroup(identity, 'SIGTERM');
  expect(await spawned.exited).toEqual({ code: null, signal: 'SIGTERM' });
});

test('a sample covers the whole tree, and is undefined once the tree is gone', async () => {
  const { spawned, identity, line } = await worker('sleep 1000 & echo $!; wait', 'w-3');
  await line(1);
  const target = { identity, workerId: 'w-3' };
  const sample = await sampleTree(target, { readsPss: () => true });
  expect(sample?.processes).toBe(2);
  expect(sample?.rssBytes).toBeGreaterThan(sample?.pssBytes ?? 0);
  expect(sample?.pssBytes).toBeGreaterThan(50_000);
  await sweepTree(target, { timeoutMs: 5_000 });
  await spawned.exited;
  // Process tables are shared for a moment.
  while ((await sampleTree(target, { readsPss: () => false })) !== undefined)
    await new Promise((resolve) => setImmediate(resolve));
});

test("only one agent may use a directory: a second is refused, while a dead agent's lock or a torn one is taken over", () => {
  const lock = lockDirectory(dir);
  expect(() => lockDirectory(dir)).toThrow(
    `${dir}: expected no other agent to use it, got one with pid ${process.pid}`,
  );
  lock.release();
  const dead = { ...identify(process.pid), startTime: '1' };
  for (const content of [JSON.stringify(dead), '{"pid": 1', '']) {
    writeFileSync(join(dir, 'agent.lock'), content);
    const next = lockDirectory(dir);
    expect(JSON.parse(readFileSync(join(dir, 'agent.lock'), 'utf8'))).toEqual(identify(process.pid));
    next.release();
  }
});

test('the files of an earlier agent are removed, except those of the workers to keep', () => {
  const paths = prepareRuntimeDirectory(join(dir, 'cleared'));
  const left = () => ['link', 'output'].map((name) => readdirSync(join(dir, 'cleared', name)).sort());
  const make = () => {
    for (const name of [
      'link/p-0-aaaaaaaa.begun',
      'link/p-0-bbbbbbbb.stacks',
      'output/p-0-aaaaaaaa.out',
      'output/p-0-bbbbbbbb.read',
    ])
      writeFileSync(join(dir, 'cleared', name), '');
  };
  make();
  expect(clearRuntimeDirectory(paths, new Set(['p-0-aaaaaaaa']))).toEqual([]);
  expect(left()).toEqual([['p-0-aaaaaaaa.begun'], ['p-0-aaaaaaaa.out']]);
  make();
  expect(clearRuntimeDirectory(paths)).toEqual([]);
  expect(left()).toEqual([[], []]);
  rmSync(paths.output, { recursive: true });
  expect(clearRuntimeDirectory(paths)).toEqual([]);
});

test('only files with our names are removed from the runtime directory; the others are returned', () => {
  const runtime = join(dir, 'a project');
  const theirs = [
    'output/results.csv',
    'output/p-0-aaaaaaaa.tar.gz',
    'output/P-0-aaaaaaaa.out',
    'link/notes',
    'data.txt',
  ];
  const folders = ['output/p-0-bbbbbbbb.out', 'output/2024', 'link/include'];
  for (const folder of ['output', 'link', ...folders])
    mkdirSync(join(runtime, folder), { recursive: true, mode: 0o755 });
  for (const name of [...theirs, 'output/2024/january.csv', 'output/p-0-cccccccc.out'])
    writeFileSync(join(runtime, name), 'theirs');
  const warnings: string[] = [];
  const paths = prepareRuntimeDirectory(runtime, { warn: (message) => warnings.push(message) });
  expect(warnings).toEqual([
    expect.stringMatching(/link was open to other users \(mode 0755\); .* closed to them/),
    expect.stringMatching(/output was open to other users/),
  ]);
  const named = clearRuntimeDirectory(paths);
  const expected = [...theirs.filter((name) => name !== 'data.txt'), ...folders].map((name) => join(runtime, name));
  expect([...named].sort()).toEqual(expected.sort());
  for (const name of [...theirs, 'output/2024/january.csv'])
    expect(readFileSync(join(runtime, name), 'utf8')).toBe('theirs');
  expect(existsSync(join(runtime, 'output/p-0-cccccccc.out'))).toBe(false);
});

test("anything but a socket at a socket's path is refused and not removed", () => {
  const runtime = join(dir, 'occupied');
  mkdirSync(runtime);
  writeFileSync(join(runtime, 'agent.sock'), 'theirs');
  expect(() => prepareRuntimeDirectory(runtime)).toThrow(
    /agent\.sock: expected a socket or nothing, got something else/,
  );
  expect(readFileSync(join(runtime, 'agent.sock'), 'utf8')).toBe('theirs');
});

test('only this user may call the API, or also the members of socket_group, who may enter the runtime directory', async () => {
  const runtime = join(dir, 'grouped');
  const modeOf = (path: string) => (statSync(path).mode & 0o777).toString(8);
  const listener = createServer();
  const { apiSocket } = prepareRuntimeDirectory(runtime);
  chmodSync(runtime, 0o700);
  await new Promise<void>((done) => listener.listen(apiSocket, done));
  restrictSocket(apiSocket, null);
  expect([modeOf(runtime), modeOf(apiSocket)]).toEqual(['700', '600']);
  const group = process.getgroups?.().at(-1) ?? 0;
  const warnings: string[] = [];
  chmodSync(dir, 0o700);
  prepareRuntimeDirectory(runtime, { group, warn: (message) => warnings.push(message) });
  restrictSocket(apiSocket, group);
  expect([modeOf(runtime), modeOf(apiSocket)]).toEqual(['750', '660']);
  expect([statSync(runtime).gid, statSync(apiSocket).gid]).toEqual([group, group]);
  expect(['link', 'output'].map((name) => modeOf(join(runtime, name)))).toEqual(['700', '700']);
  expect(warnings).toEqual(
    statSync(dir).gid === group
      ? [expect.stringContaining(`${dir} is closed to them`)]
      : [
          expect.stringMatching(
            /^members of group \d+ \(socket_group\) cannot reach the socket: .* is closed to them; name/,
          ),
        ],
  );
  listener.close();
});

test.runIf(process.geteuid?.() === 0)(
  'a group that the agent may not give its socket to is refused, with a remedy',
  () => {
    const runtime = join(dir, 'ungrouped');
    prepareRuntimeDirectory(runtime);
    chmodSync(dir, 0o755);
    chownSync(runtime, 4242, 4242);
    process.seteuid?.(4242);
    try {
      expect(() => restrictSocket(runtime, 4343)).toThrow(
        /expected that user 4242 may give it to group 4343 \(socket_group\), got EPERM; make that user a member/,
      );
    } finally {
      process.seteuid?.(0);
    }
  },
);

test('the runtime directory is closed to other users, and one that they could have prepared is refused', () => {
  const runtime = join(dir, 'run');
  expect(prepareRuntimeDirectory(runtime)).toEqual({
    apiSocket: join(runtime, 'agent.sock'),
    controlSocket: join(runtime, 'control.sock'),
    linkSocket: join(runtime, 'link/link.sock'),
    hasPassedSocket: false,
    output: join(runtime, 'output'),
  });
  expect(statSync(join(runtime, 'link')).mode & 0o777).toBe(0o700);
  expect(statSync(join(runtime, 'output')).mode & 0o777).toBe(0o700);
  expect(statSync(runtime).mode & 0o007).toBe(0);
  symlinkSync(runtime, join(dir, 'linked'));
  expect(() => prepareRuntimeDirectory(join(dir, 'linked'))).toThrow('expected a directory, got something else');
  const longest = join(dir, 'x'.repeat(107 - Buffer.byteLength(join(dir, '/link/link.sock')) - 1));
  expect(prepareRuntimeDirectory(longest).linkSocket).toHaveLength(107);
  // The API socket's path alone would fit.
  expect(() => prepareRuntimeDirectory(`${longest}x`)).toThrow('got 108');
  expect(() => prepareRuntimeDirectory(join(dir, 'x'.repeat(90)))).toThrow(
    /expected a folder in which each socket's path has at most 107 bytes, got \d+: .*; name another folder/,
  );
});
