import type { Stats } from 'node:fs';
import { lstatSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

/*
 * Whether a socket is the agent's: in a folder that other users may write to, one of them can create a socket of their
 * own. The Python client has the same checks (_socket_trust.py).
 */

/**
 * Why the socket at this path must not be dialled. Undefined if it may be, or if no one can be listening there.
 * `named`: the user named the path explicitly and so trusts the owner of its folder.
 */
export function socketProblem(path: string, named: boolean, uid = process.geteuid?.() ?? 0): string | undefined {
  const folder = dirname(path);
  const trusted = new Set([0, uid]);
  try {
    const inside = statSync(folder);
    if (named || isClosed(dirname(resolve(folder)), trusted)) trusted.add(inside.uid);
    for (const found of [lstatSync(folder), inside]) {
      if (!trusted.has(found.uid)) return untrustedOwner(folder, 'folder', found, trusted);
    }
    if ((inside.mode & 0o002) !== 0 && (inside.mode & 0o1000) === 0) {
      const wanted = 'expected a folder that other users may not write to';
      const remedy = 'they could put a socket of their own there; close it with chmod o-w';
      return `${folder}: ${wanted}, got mode ${modeText(inside)}: ${remedy}`;
    }
    const socket = statSync(path);
    for (const found of [lstatSync(path), socket]) {
      if (!trusted.has(found.uid)) return untrustedOwner(path, 'socket', found, trusted);
    }
    if (socket.isSocket() && (socket.mode & 0o002) !== 0 && (inside.mode & 0o001) !== 0) {
      const wanted = 'expected a socket that other users may not write to';
      const remedy =
        'they can command this agent; close it with chmod o-rwx (in a systemd socket unit: SocketMode=0660)';
      return `${path}: ${wanted}, got mode ${modeText(socket)}: ${remedy}`;
    }
  } catch {
    // Nothing can be checked: the attempt to connect will report why.
    return undefined;
  }
  return undefined;
}

/** Explains who may connect to a socket, for a user who may not. */
export function whoMayConnect(path: string): string {
  try {
    const found = statSync(path);
    return `it belongs to user ${found.uid} and group ${found.gid}, mode ${modeText(found)}`;
  } catch {
    return `its folder is closed to user ${process.geteuid?.()}`;
  }
}

/** Only the trusted users can create files there. */
function isClosed(folder: string, trusted: ReadonlySet<number>): boolean {
  const { uid, mode } = statSync(folder);
  return trusted.has(uid) && (mode & 0o022) === 0;
}

function untrustedOwner(path: string, kind: string, { uid }: Stats, trusted: ReadonlySet<number>): string {
  const users = [...trusted].sort((a, b) => a - b).join(' or ');
  const why = 'who may have put it there for callers of an agent to dial';
  const remedy =
    "if you mean that user's agent, name its socket, in a folder of that user: --socket PATH or PITWARDEN_SOCKET";
  return `${path}: expected a ${kind} of user ${users}, got one of user ${uid}, ${why}; ${remedy}`;
}

function modeText({ mode }: Stats): string {
  return `0${(mode & 0o7777).toString(8)}`;
}
