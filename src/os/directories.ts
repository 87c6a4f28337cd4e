import type { Stats } from 'node:fs';
import { chmodSync, lstatSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join, parse } from 'node:path';
import { workerIdPattern } from './ledger.ts';

export interface RuntimeDirectory {
  /** The API's socket; empty: one without a path. */
  readonly apiSocket: string;
  /** The API's socket is somebody else's, and stays. */
  readonly isLent: boolean;
  /** The workers' socket, in a directory that only this user may enter. */
  readonly linkSocket: string;
  /** The directory of what workers write, which only this user may enter. */
  readonly output: string;
}

/** Bytes that a unix socket's path may have: sun_path of unix(7) without its final NUL. */
const socketPathMaxBytes = 107;

const runtimeRemedy = 'name another folder with --runtime-dir DIR (config: runtime_dir)';
const stateRemedy = 'name another folder with --state-dir DIR (config: state_dir)';

/**
 * Makes the directory, 0750, and refuses one that other users could have prepared. `lent`: the API's socket exists already.
 * `warn` is told of each folder that was there and open to others, since it is closed to them from now on.
 */
export function prepareRuntimeDirectory(
  directory: string,
  lent: { readonly path: string } | null = null,
  warn: (message: string) => void = () => undefined,
): RuntimeDirectory {
  makeOwn(directory, 0o750, runtimeRemedy);
  const link = join(directory, 'link');
  const output = join(directory, 'output');
  for (const path of [link, output]) {
    makeOwn(path, 0o700, runtimeRemedy);
    const { mode } = lstatSync(path);
    if ((mode & 0o077) === 0) continue;
    chmodSync(path, 0o700);
    warn(`${path} was open to others (mode ${modeText(mode)}), and is closed to them now: workers' files are in it`);
  }
  const apiSocket = lent?.path ?? join(directory, 'agent.sock');
  const linkSocket = join(link, 'link.sock');
  for (const path of lent === null ? [apiSocket, linkSocket] : [linkSocket]) {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === false) {
      throw new Error(`${path}: expected a socket or nothing, got something else; ${runtimeRemedy}`);
    }
  }
  for (const path of [apiSocket, linkSocket]) {
    const bytes = Buffer.byteLength(path);
    if (bytes > socketPathMaxBytes) {
      throw new Error(`${path}: expected a socket path of at most ${socketPathMaxBytes} bytes, got ${bytes}`);
    }
  }
  return { apiSocket, linkSocket, isLent: lent !== null, output };
}

export function prepareStateDirectory(directory: string): void {
  makeOwn(directory, 0o700, stateRemedy);
}

/**
 * Takes away what an agent that is no more has left here, save the files of the workers to keep. Only what has a name and a kind
 * of ours goes; the paths of the rest are returned. Only for who holds the directory's lock. Never throws.
 */
export function clearRuntimeDirectory(
  paths: RuntimeDirectory,
  keep: ReadonlySet<string> = new Set(),
): readonly string[] {
  const { apiSocket, linkSocket, isLent, output } = paths;
  const left: string[] = [];
  for (const path of isLent ? [linkSocket] : [apiSocket, linkSocket]) {
    if (!tryRemove(path, (stat) => stat.isSocket())) left.push(path);
  }
  for (const directory of [dirname(linkSocket), output]) {
    for (const path of namesIn(directory).map((name) => join(directory, name))) {
      if (path === linkSocket) continue;
      const workerId = workerIdOf(path);
      if (workerId !== undefined && keep.has(workerId)) continue;
      if (workerId === undefined || !tryRemove(path, (stat) => stat.isFile())) left.push(path);
    }
  }
  return left;
}

/** Of a file that belongs to one worker; undefined: its name is none of ours. */
function workerIdOf(path: string): string | undefined {
  const { name, ext } = parse(path);
  return workerIdPattern.test(name) && /^\.[a-z]{1,16}$/.test(ext) ? name : undefined;
}

/** False: it is still there, because it is of another kind or cannot be removed. */
function tryRemove(path: string, isOurs: (stat: Stats) => boolean): boolean {
  try {
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat === undefined) return true;
    if (!isOurs(stat)) return false;
    rmSync(path, { force: true });
    return true;
  } catch {
    return false;
  }
}

/** None where somebody has taken the directory away meanwhile. */
function namesIn(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** Who may connect: this user and its group, 0660. */
export function restrictSocket(path: string): void {
  chmodSync(path, 0o660);
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
