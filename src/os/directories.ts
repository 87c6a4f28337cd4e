import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join, parse } from 'node:path';

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

/** Makes the directory, 0750, and refuses one that other users could have prepared. `lent`: the API's socket exists already. */
export function prepareRuntimeDirectory(
  directory: string,
  lent: { readonly path: string } | null = null,
): RuntimeDirectory {
  makeOwn(directory, 0o750, runtimeRemedy);
  const link = join(directory, 'link');
  const output = join(directory, 'output');
  for (const path of [link, output]) {
    makeOwn(path, 0o700, runtimeRemedy);
    chmodSync(path, 0o700);
  }
  const apiSocket = lent?.path ?? join(directory, 'agent.sock');
  const linkSocket = join(link, 'link.sock');
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
 * Takes away what an agent that is no more has left here, save the files of the workers to keep. Only for who holds the
 * directory's lock.
 */
export function clearRuntimeDirectory(paths: RuntimeDirectory, keep: ReadonlySet<string> = new Set()): void {
  if (!paths.isLent) rmSync(paths.apiSocket, { force: true });
  for (const directory of [dirname(paths.linkSocket), paths.output]) {
    // Somebody may have taken the directory away meanwhile.
    if (!existsSync(directory)) continue;
    for (const name of readdirSync(directory)) {
      if (!keep.has(parse(name).name)) rmSync(join(directory, name), { force: true });
    }
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
