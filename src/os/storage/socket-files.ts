import { chmodSync, chownSync } from 'node:fs';
import { removeOurs } from './remove-file.ts';

/*
 * The files of the agent's sockets: who may use them, and their removal. `clearRuntimeDirectory` (directories.ts) removes them,
 * for agent/host.ts at a start after a crash and for agent/shutdown.ts at the end. Before that, Node removes the file of a
 * server that closes.
 */

/** The key of the configuration that names a group. */
export type GroupKey = 'socket_group' | 'control_group';

/**
 * Opens a socket to its users: to this user, and to the group if there is one. Until now only this user could connect.
 */
export function restrictSocket(path: string, group: number | null, key: GroupKey = 'socket_group'): void {
  if (group !== null) giveToGroup(path, group, key);
  chmodSync(path, group === null ? 0o600 : 0o660);
}

/** Removes the sockets and returns the paths of those that are still there, because something else has their name. */
export function removeSockets(paths: readonly string[]): string[] {
  return paths.filter((path) => !removeOurs(path, (stat) => stat.isSocket()));
}

/** `path` is a socket, or the folder that it is in. */
export function giveToGroup(path: string, group: number, key: GroupKey): void {
  try {
    chownSync(path, -1, group);
  } catch (error) {
    const uid = process.geteuid?.();
    const wanted = `expected that user ${uid} may give it to group ${group} (${key})`;
    const remedy = 'make that user a member of the group (usermod -aG GROUP USER), or name a group that it is in';
    throw new Error(`${path}: ${wanted}, got ${(error as NodeJS.ErrnoException).code}; ${remedy}`);
  }
}
