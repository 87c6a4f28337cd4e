import { chmodSync, existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials } from '@grpc/grpc-js';
import { afterEach, expect, test } from 'vitest';
import { clients } from '../../src/grpc/proto.ts';
import { isRoot, needs } from '../needs.ts';
import type { TestAgent } from './agent.ts';
import { examples, node, python, root, runToEnd, spawnAgent, until, untilReady } from './agent.ts';

// Who may do what at the two sockets of a real agent.

const callerId = 4242;
const socketGroup = 4343;
const controlGroup = 4444;
const text = `text: { app: text:app, python: ${python}, cwd: ${examples} }`;

let agent: TestAgent | undefined;

afterEach(async () => {
  await agent?.stop();
  agent = undefined;
});

/** Starts an agent below a folder that other users may enter. */
async function start(extra: string): Promise<TestAgent> {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  chmodSync(dir, 0o755);
  agent = await spawnAgent(text, extra, dir);
  await untilReady(agent, 'text', 1);
  return agent;
}

/** Runs `bin/pitwarden` as another user who is in these groups. */
function cliAs(groups: readonly number[], ...args: string[]) {
  const memberOf = groups.length === 0 ? ['--clear-groups'] : ['--groups', groups.join(',')];
  const user = ['--reuid', String(callerId), '--regid', String(callerId), ...memberOf];
  return runToEnd('setpriv', [...user, node, join(root, 'bin/pitwarden'), ...args]);
}

const asOthers = isRoot ? {} : needs('root', false);

test('the owner commands by the folder, by agent.sock as scripts of 0.1.0 do, and by control.sock', async () => {
  const { dir, socket, cli } = await start('');
  const run = join(dir, 'run');
  const modeOf = (name: string): string => (statSync(join(run, name)).mode & 0o777).toString(8);
  expect([modeOf('agent.sock'), modeOf('control.sock')]).toEqual(['600', '600']);
  for (const named of [run, socket, join(run, 'control.sock')]) {
    const command = (...args: string[]) => runToEnd(node, [join(root, 'bin/pitwarden'), ...args, '--socket', named]);
    expect(await command('drain', 'text')).toMatchObject({ code: 0, stderr: '' });
    expect(await command('resume', 'text')).toMatchObject({ code: 0, stderr: '' });
    expect((await command('call', 'text', 'count_words', '--args', '["a b a"]')).code).toBe(0);
  }
  expect((await cli('roll', 'text')).code).toBe(0);
  const caller = new clients.Control(`unix:${socket}`, credentials.createInsecure());
  const drained = new Promise((resolve, reject) => {
    const drain = (caller as unknown as Record<string, (...args: unknown[]) => void>)['DrainNode'];
    drain?.call(caller, {}, (error: Error | null, view: object) => (error === null ? resolve(view) : reject(error)));
  });
  await expect(drained).rejects.toThrow(`use control.sock beside it (${run}/control.sock)`);
  caller.close();
});

test(
  'a member of socket_group may call and read, and may not drain; one of control_group may too',
  asOthers,
  async () => {
    const { dir, socket } = await start(`socket_group: ${socketGroup}\ncontrol_group: ${controlGroup}`);
    const run = join(dir, 'run');
    expect(statSync(join(run, 'control.sock'))).toMatchObject({ gid: controlGroup });
    expect((statSync(join(run, 'control.sock')).mode & 0o777).toString(8)).toBe('660');
    const called = await cliAs([socketGroup], 'call', 'text', 'count_words', '--args', '["a b a"]', '--socket', socket);
    expect(called).toMatchObject({ code: 0, stdout: expect.stringContaining('2') });
    expect((await cliAs([socketGroup], 'workers', '--socket', socket)).code).toBe(0);
    expect(await cliAs([socketGroup], 'drain', 'text', '--socket', socket)).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(
        `control.sock: this user may not connect to it \\(EACCES\\): it belongs to user 0 and group ${controlGroup}, mode 0660; .*control_group`,
      ),
    });
    const denied = [
      ...['import grpc, sys', 'channel = grpc.insecure_channel("unix:" + sys.argv[1])'],
      'drain = channel.unary_unary("/pitwarden.v1.Control/DrainNode")',
      ...[
        'try:',
        '    drain(b"", timeout=10)',
        'except grpc.RpcError as error:',
        '    print(error.code().name, error.details())',
      ],
    ].join('\n');
    const user = ['--reuid', String(callerId), '--regid', String(callerId), '--groups', String(socketGroup)];
    const { stdout } = await runToEnd('setpriv', [...user, python, '-c', denied, socket]);
    expect(stdout).toMatch(
      /^PERMISSION_DENIED .*DrainNode: expected the role operator or controller, got a caller at agent.sock/,
    );
    expect((await cliAs([socketGroup, controlGroup], 'drain', 'text', '--socket', socket)).code).toBe(0);
    expect(await cliAs([], 'status', '--socket', socket)).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('agent.sock: this user may not connect to it (EACCES)'),
    });
  },
);

test('a member of control_group alone reads and commands by control.sock', asOthers, async () => {
  const { dir, socket } = await start(`control_group: ${controlGroup}`);
  expect(statSync(join(dir, 'run')).gid).toBe(controlGroup);
  expect((await cliAs([controlGroup], 'workers', '--socket', socket)).code).toBe(0);
  expect((await cliAs([controlGroup], 'drain', 'text', '--socket', join(dir, 'run'))).code).toBe(0);
});

test('control.sock is made again when it is removed, one that an agent left is replaced, and none stays at the end', async () => {
  const first = await start('');
  const control = join(first.dir, 'run/control.sock');
  rmSync(control);
  await until(() => existsSync(control), 'it to be made again');
  expect((await first.cli('drain', 'text')).code).toBe(0);
  first.signal('SIGKILL');
  await first.exited;
  expect(existsSync(control)).toBe(true);
  agent = await spawnAgent(text, '', first.dir);
  await untilReady(agent, 'text', 1);
  expect((await agent.cli('resume', 'text')).code).toBe(0);
  agent.signal('SIGTERM');
  await agent.exited;
  expect(existsSync(control)).toBe(false);
});
