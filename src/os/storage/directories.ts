import { chmodSync, lstatSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { dirname, join, parse } from 'node:path';
import { socketNames, socketPathProblem } from '../../domain/socket-path.ts';
import { workerIdPattern } from './ledger.ts';
import { removeOurs } from './remove-file.ts';
import type { GroupKey } from './socket-files.ts';
import { giveToGroup, removeSockets } from './socket-files.ts';

export interface RuntimeDirectory {
  /** The API's socket; empty if it has no path. */
  readonly apiSocket: string;
  /** The API's socket belongs to the service manager and is not removed. */
  readonly hasPassedSocket: boolean;
  /** The socket for all of Control, beside `agent.sock` if that is the agent's own. */
  readonly controlSocket: string;
  /** The workers' socket, in a directory that only this user may enter. */
  readonly linkSocket: string;
  /** The directory of worker output, which only this user may enter. */
  readonly output: string;
}

const runtimeRemedy = 'name another folder with --runtime-dir DIR (config: runtime_dir)';
const stateRemedy = 'name another folder with --state-dir DIR (config: state_dir)';

export interface RuntimeDirectoryOptions {
  /** The API's socket if it exists already; null: it will be created here. */
  readonly passedSocket?: { readonly path: string } | null;
  /** The group that may use the API's socket; null: none. */
  readonly group?: number | null;
  /** The group that may use control.sock; null: none. */
  readonly controlGroup?: number | null;
  /** Called for each folder that was accessible to other users and has been closed to them. */
  readonly warn?: (message: string) => void;
}

/** Creates the directory with mode 0750, and refuses one that another user could have prepared. */
export function prepareRuntimeDirectory(
  directory: string,
  { passedSocket = null, group = null, controlGroup = null, warn = () => undefined }: RuntimeDirectoryOptions = {},
): RuntimeDirectory {
  const tooLong = socketPathProblem(directory, Buffer.byteLength);
  if (tooLong !== undefined) throw new Error(`${directory}: ${tooLong}; ${runtimeRemedy}`);
  makeOwn(directory, 0o750, runtimeRemedy);
  const linkSocket = join(directory, socketNames.link);
  const output = join(directory, 'output');
  for (const path of [dirname(linkSocket), output]) {
    makeOwn(path, 0o700, runtimeRemedy);
    const { mode } = lstatSync(path);
    if ((mode & 0o077) === 0) continue;
    chmodSync(path, 0o700);
    warn(
      `${path} was open to other users (mode ${modeText(mode)}); it holds workers' files, so it is now closed to them`,
    );
  }
  // The folder has one group. With socket_group, members of control_group must be members of that too. A service manager that made
  // the API's socket has given the folder to the socket's group.
  if (passedSocket === null && group !== null) letGroupEnter(directory, group, 'socket_group', warn);
  else if (passedSocket === null && controlGroup !== null)
    letGroupEnter(directory, controlGroup, 'control_group', warn);
  const apiSocket = passedSocket?.path ?? join(directory, socketNames.api);
  const controlSocket = join(directory, socketNames.control);
  if (apiSocket === controlSocket) {
    throw new Error(`${apiSocket}: expected the service manager's socket at another path, where the agent makes none`);
  }
  for (const path of passedSocket === null ? [apiSocket, controlSocket, linkSocket] : [controlSocket, linkSocket]) {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === false) {
      throw new Error(`${path}: expected a socket or nothing, got something else; ${runtimeRemedy}`);
    }
  }
  return { apiSocket, controlSocket, linkSocket, hasPassedSocket: passedSocket !== null, output };
}

export function prepareStateDirectory(directory: string): void {
  makeOwn(directory, 0o700, stateRemedy);
}

/**
 * Removes what an earlier agent has left here, except the files of the workers in `keep`. Only files with a name and
 * type of ours are removed; returns the paths of all others. Call it only while holding the directory's lock. Never
 * throws.
 */
export function clearRuntimeDirectory(
  paths: RuntimeDirectory,
  keep: ReadonlySet<string> = new Set(),
): readonly string[] {
  const { apiSocket, controlSocket, linkSocket, hasPassedSocket, output } = paths;
  const left = removeSockets([...(hasPassedSocket ? [] : [apiSocket]), controlSocket, linkSocket]);
  for (const directory of [dirname(linkSocket), output]) {
    for (const path of namesIn(directory).map((name) => join(directory, name))) {
      if (path === linkSocket) continue;
      const workerId = workerIdOf(path);
      if (workerId !== undefined && keep.has(workerId)) continue;
      if (workerId === undefined || !removeOurs(path, (stat) => stat.isFile())) left.push(path);
    }
  }
  return left;
}

/** The worker that a file belongs to; undefined if its name is not one of ours. */
function workerIdOf(path: string): string | undefined {
  const { name, ext } = parse(path);
  return workerIdPattern.test(name) && /^\.[a-z]{1,16}$/.test(ext) ? name : undefined;
}

/** Empty if the directory was removed meanwhile. */
function namesIn(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function letGroupEnter(directory: string, group: number, key: GroupKey, warn: (message: string) => void): void {
  const { gid, mode } = lstatSync(directory);
  if (gid !== group) giveToGroup(directory, group, key);
  if ((mode & 0o050) !== 0o050) chmodSync(directory, (mode & 0o777) | 0o050);
  const closed = foldersAbove(directory).find((folder) => !mayEnter(folder, group));
  if (closed === undefined) return;
  warn(`members of group ${group} (${key}) cannot reach the socket: ${closed} is closed to them; ${runtimeRemedy}`);
}

function foldersAbove(directory: string): string[] {
  const above = dirname(directory);
  return above === directory ? [] : [...foldersAbove(above), above];
}

function mayEnter(folder: string, group: number): boolean {
  const { gid, mode } = statSync(folder);
  return (mode & (gid === group ? 0o010 : 0o001)) !== 0;
}

function makeOwn(directory: string, mode: number, remedy: string): void {
  const refuse = (message: string): never => {
    throw new Error(`${directory}: ${message}; ${remedy}`);
  };
  try {
    mkdirSync(directory, { recursive: true, mode });
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    refuse(`expected a folder that this user may make, got ${code} at ${path ?? directory}`);
  }
  const stat = lstatSync(directory);
  const uid = process.getuid?.() ?? stat.uid;
  if (!stat.isDirectory()) refuse('expected a directory, got something else');
  if (stat.uid !== uid) refuse(`expected it to belong to user ${uid}, got user ${stat.uid}`);
  if ((stat.mode & 0o002) !== 0) refuse(`expected it to be closed to others, got mode ${modeText(stat.mode)}`);
}

function modeText(mode: number): string {
  return `0${(mode & 0o777).toString(8)}`;
}
