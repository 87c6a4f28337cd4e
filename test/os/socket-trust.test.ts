import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import type { Server } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { socketProblem } from '../../src/os/storage/socket-trust.ts';

// python/tests/test_address.py has the same cases for the Python client.

const stranger = 4242;
let above: string;
let folder: string;
let socket: string;
let listener: Server;

/** A folder with a socket as an agent creates them, inside a folder that every user may write to. */
beforeEach(async () => {
  above = mkdtempSync(join(tmpdir(), 'pw-'));
  folder = join(above, 'pitwarden-1');
  socket = join(folder, 'agent.sock');
  chmodSync(above, 0o1777);
  mkdirSync(folder, { mode: 0o750 });
  listener = createServer();
  await new Promise<void>((done) => listener.listen(socket, done));
  chmodSync(socket, 0o600);
});

afterEach(() => {
  listener.close();
  rmSync(above, { recursive: true });
});

test('a socket in a closed folder of this user may be dialled', () => {
  for (const named of [false, true]) {
    for (const path of [socket, join(folder, 'none.sock'), join(folder, 'none/agent.sock')]) {
      expect(socketProblem(path, named)).toBe(undefined);
    }
  }
});

test('a socket or folder that other users may write to is not dialled', () => {
  chmodSync(folder, 0o777);
  for (const path of [socket, join(folder, 'none.sock')]) {
    expect(socketProblem(path, true)).toBe(
      `${folder}: expected a folder that other users may not write to, got mode 0777: they could put a socket of their own there; close it with chmod o-w`,
    );
  }
  chmodSync(folder, 0o1777);
  expect(socketProblem(socket, false)).toBe(undefined);
  chmodSync(folder, 0o755);
  chmodSync(socket, 0o666);
  expect(socketProblem(socket, true)).toContain(
    `${socket}: expected a socket that other users may not write to, got mode 0666: they can command this agent`,
  );
  // Other users cannot reach it.
  chmodSync(folder, 0o750);
  expect(socketProblem(socket, true)).toBe(undefined);
});

describe.runIf(process.geteuid?.() === 0)('a socket or folder of another user', () => {
  beforeEach(() => {
    chownSync(folder, stranger, stranger);
    chownSync(socket, stranger, stranger);
  });

  test('is not dialled at the default path, where that user may have created it', () => {
    const problem = socketProblem(socket, false, 7);
    expect(problem).toContain(`${folder}: expected a folder of user 0 or 7, got one of user ${stranger}`);
    expect(problem).toContain('--socket PATH or PITWARDEN_SOCKET');
  });

  test('is dialled if the user named it, or if root made the folder above it, as with /run', () => {
    expect(socketProblem(socket, true, 7)).toBe(undefined);
    chmodSync(above, 0o755);
    expect(socketProblem(socket, false, 7)).toBe(undefined);
  });

  test("is not dialled in a folder of a third user, or through that user's symlink", () => {
    chownSync(folder, 0, 0);
    chmodSync(folder, 0o1777);
    expect(socketProblem(socket, true, 7)).toContain(
      `${socket}: expected a socket of user 0 or 7, got one of user 4242`,
    );
    const link = join(folder, 'link.sock');
    symlinkSync(socket, link);
    expect(socketProblem(link, true, 7)).toContain('got one of user 4242');
  });
});
