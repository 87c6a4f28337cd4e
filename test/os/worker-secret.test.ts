import { mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import { isProcessRunning, shellWorker } from './shell-worker.ts';

// How a worker's secret reaches the SDK through wrappers around the interpreter, with real processes.

const dir = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const root = join(import.meta.dirname, '../..');
const python = join(root, '.venv/bin/python');
const workerId = 'w-0';
const secret = Buffer.alloc(32, 7);
/** Prints the last token, which is the secret itself, and the state of descriptors 0 and 3 afterwards. */
const script = `
import os, sys
from pitwarden._secret import SecretError, take_secret
try:
    secret = take_secret("${workerId}")
except SecretError as error:
    sys.exit(str(error))
tokens = [secret.next_token() for _ in range(1000)]
print(tokens[-1], os.readlink("/proc/self/fd/0"), os.path.exists("/proc/self/fd/3"))
`;
const env = { PY: python, TAKE: script, PYTHONPATH: join(root, 'python/src') };
const start = (wrapper: string) => shellWorker(dir, wrapper, { workerId, secret, env });
const taken = `${secret.toString('hex')} /dev/null False`;

test.each([
  ['exec', 'exec "$PY" -c "$TAKE"'],
  ['a child of a shell', '"$PY" -c "$TAKE"; true'],
  ['a shell job in the background, whose stdin is /dev/null', '"$PY" -c "$TAKE" & wait'],
  ['sudo and uv run, which close descriptors from 3 on', 'exec 3<&-; "$PY" -c "$TAKE"; true'],
  [
    'Python, whose subprocess closes descriptors from 3 on',
    `exec "$PY" -c 'import os, subprocess, sys; subprocess.run([sys.executable, "-c", os.environ["TAKE"]])'`,
  ],
  ['a wrapper that reads its stdin to the end', 'cat > /dev/null; exec "$PY" -c "$TAKE"'],
  ['setsid', 'exec setsid --wait "$PY" -c "$TAKE"'],
])('the secret reaches the worker through %s, which then has neither descriptor', async (_, wrapper) => {
  const { spawned, line } = await start(wrapper);
  expect(await line(1)).toBe(taken);
  expect(await spawned.exited).toMatchObject({ code: 0 });
});

test('behind a wrapper that passes neither descriptor, the worker says what is missing', async () => {
  const { spawned, line } = await start('exec 3<&- 0</dev/null; exec "$PY" -c "$TAKE"');
  expect(await line(1)).toMatch(/^the agent's secret did not arrive: expected it on file descriptor 3 or 0/);
  expect(await spawned.exited).toMatchObject({ code: 1 });
});

test('other processes of the same user find the secret neither in the environment nor through /proc/PID/fd', async () => {
  const { spawned, identity } = await start('exec sleep 1000');
  const proc = `/proc/${identity.pid}`;
  expect(readFileSync(`${proc}/environ`, 'latin1')).not.toContain(secret.toString('hex'));
  expect(readFileSync(`${proc}/cmdline`, 'latin1')).not.toContain(secret.toString('hex'));
  for (const fd of ['0', '3']) {
    expect(readlinkSync(`${proc}/fd/${fd}`)).toMatch(/^socket:/);
    expect(() => openSync(`${proc}/fd/${fd}`, 'r')).toThrow(/ENXIO/);
  }
  process.kill(identity.pid, 'SIGKILL');
  await spawned.exited;
});

test('a worker that never reads its secret keeps no socket of the agent open', async () => {
  const sockets = (): number => readdirSync('/proc/self/fd').filter(isSocket).length;
  const before = sockets();
  const { spawned, identity } = await start('exec sleep 1000');
  await vi.waitFor(() => expect(sockets()).toBe(before));
  expect(isProcessRunning(identity.pid)).toBe(true);
  process.kill(identity.pid, 'SIGKILL');
  await spawned.exited;
});

function isSocket(fd: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:');
  } catch {
    return false;
  }
}
