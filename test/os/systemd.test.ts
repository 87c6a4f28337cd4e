import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openServiceManager } from '../../src/os/systemd.ts';

const pid = String(process.pid);
const unheard = (message: string): never => {
  throw new Error(message);
};

test('without a service manager there are no notifications, watchdog or sockets', async () => {
  const manager = openServiceManager({}, unheard);
  expect(manager).toMatchObject({ watchdogMs: 0, sockets: [] });
  await manager.notify('READY=1');
});

test('variables meant for another process are ignored', () => {
  const variables = { WATCHDOG_PID: '1', WATCHDOG_USEC: '1000', LISTEN_PID: '1', LISTEN_FDS: '1' };
  expect(openServiceManager(variables, unheard)).toMatchObject({ watchdogMs: 0, sockets: [] });
});

test('the variables are removed from the environment, so that no child inherits them', () => {
  const variables = {
    PATH: '/bin',
    NOTIFY_SOCKET: '/run/nobody',
    WATCHDOG_PID: pid,
    WATCHDOG_USEC: '30000000',
    LISTEN_PID: pid,
    LISTEN_FDS: '2',
    LISTEN_FDNAMES: 'api:other',
  };
  const manager = openServiceManager(variables, unheard);
  expect(manager.watchdogMs).toBe(30_000);
  expect(manager.sockets.map(({ fd, name }) => [fd, name])).toEqual([
    [3, 'api'],
    [4, 'other'],
  ]);
  expect(variables).toEqual({ PATH: '/bin' });
});

test('the path of a passed unix socket is known', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  const path = join(dir, 'with space.sock');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  // Passed as descriptor 3, as systemd does.
  const code = `
import { openServiceManager } from ${JSON.stringify(new URL('../../dist/os/systemd.js', import.meta.url).pathname)};
const variables = { LISTEN_PID: String(process.pid), LISTEN_FDS: '1', LISTEN_FDNAMES: 'api' };
console.log(JSON.stringify(openServiceManager(variables, () => {}).sockets));
`;
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const args = ['--input-type=module', '-e', code];
  const { stdout, stderr } = spawnSync(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe', fd] });
  server.close();
  rmSync(dir, { recursive: true });
  expect(String(stderr)).toBe('');
  expect(JSON.parse(String(stdout))).toEqual([{ fd: 3, name: 'api', path }]);
});

test('the first notification that fails is reported once, and does not throw', async () => {
  const told: string[] = [];
  const manager = openServiceManager({ NOTIFY_SOCKET: '/nowhere/notify' }, (message) => told.push(message));
  await Promise.all([manager.notify('READY=1'), manager.notify('STATUS=x')]);
  expect(told).toHaveLength(1);
  expect(told[0]).toContain('systemd-notify');
});
