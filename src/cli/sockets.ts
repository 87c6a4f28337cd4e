import { existsSync, realpathSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { basename, dirname, join, resolve } from 'node:path';
import { socketNames, socketPathMaxBytes } from '../domain/socket-path.ts';
import { isServedAtApiSocket } from '../grpc/access/socket-access.ts';
import { pathOfUnixAddress } from '../grpc/unix-address.ts';
import { socketProblem, whoMayConnect } from '../os/storage/socket-trust.ts';
import { defaultSocketPath } from './environment.ts';
import { CliError, exitCode } from './exit.ts';
import { ownName } from './own-name.ts';

/** The sockets of one agent: `agent.sock` for calls and for what only reads, `control.sock` for what changes something. */
export interface AgentSockets {
  /** The path of the socket that serves the method. Throws if this user may not use it. */
  pathFor(service: string, method: string): Promise<string>;
  /** Where to repeat a call that was refused at `path`: `control.sock`, if it has appeared meanwhile. */
  otherThan(path: string): Promise<string | undefined>;
}

interface SocketPaths {
  readonly api: string;
  readonly control: string;
  /** Whether the user named the path; otherwise it is the default. */
  readonly named: boolean;
}

/** Finds the sockets of the agent that `--socket`, PITWARDEN_SOCKET or the default names. Throws if no agent listens. */
export async function socketsOf(flag: string | undefined): Promise<AgentSockets> {
  const paths = pathsOf(flag);
  const { control, named } = paths;
  checkSocket(paths.api, named);
  const code = await probe(paths.api);
  // A member of control_group need not be one of socket_group.
  const isClosed = code === 'EACCES' && control !== paths.api && (await mayUse(control, named));
  if (code !== undefined && !isClosed) throw refusedAt(paths.api, code, 'socket_group');
  const api = isClosed ? control : paths.api;
  return {
    pathFor: async (service, method) => {
      if (api === control || isServedAtApiSocket(service, method)) return api;
      checkSocket(control, named);
      const code = await probe(control);
      if (code === undefined) return control;
      if (code === 'EACCES') throw refusedAt(control, code, 'control_group');
      // An earlier version, which has no control.sock; or the agent is being replaced, and callers wait in agent.sock.
      return api;
    },
    otherThan: async (path) => (path !== control && (await mayUse(control, named)) ? control : undefined),
  };
}

/** `--socket` may name the folder of the sockets, or one of them. `control.sock` serves everything. */
function pathsOf(flag: string | undefined): SocketPaths {
  const name = flag ?? process.env['PITWARDEN_SOCKET'] ?? '';
  const named = name !== '';
  const path = named ? resolve(pathOfUnixAddress(name) ?? name) : defaultSocketPath();
  const inFolder = (folder: string): string => join(folder, socketNames.control);
  if (isFolder(path)) {
    return { api: join(path, socketNames.api), control: inFolder(path), named };
  }
  if (basename(path) === socketNames.control) return { api: path, control: path, named };
  return { api: path, control: controlBeside(path), named };
}

/** False if it cannot be looked at: then dialling it says why. */
function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** A path that is too long for a socket may be named by a symbolic link, beside which there may be none to `control.sock`. */
function controlBeside(path: string): string {
  const beside = join(dirname(path), socketNames.control);
  if (existsSync(beside)) return beside;
  try {
    return join(dirname(realpathSync(path)), socketNames.control);
  } catch {
    return beside;
  }
}

async function mayUse(path: string, named: boolean): Promise<boolean> {
  return socketPathProblem(path) === undefined && socketProblem(path, named) === undefined && !(await probe(path));
}

/** Throws if the socket must not be dialled, or cannot be. */
function checkSocket(path: string, named: boolean): void {
  const unusable = socketPathProblem(path);
  if (unusable !== undefined) throw new CliError(exitCode.usage, unusable);
  const problem = socketProblem(path, named);
  if (problem !== undefined) throw new CliError(exitCode.noAgent, problem);
}

/** Node silently truncates long paths, and grpc-js does not accept line breaks. */
function socketPathProblem(path: string): string | undefined {
  const bytes = Buffer.byteLength(path);
  if (bytes <= socketPathMaxBytes && !/[\n\r\u2028\u2029]/.test(path)) return undefined;
  const wanted = `expected a socket's path of at most ${socketPathMaxBytes} bytes and without line breaks, got ${bytes}`;
  return `${path}: ${wanted} bytes; name its folder by a symbolic link with --socket PATH`;
}

/** Checks that something listens, because gRPC's own message would not help the user. Resolves to the error's code. */
function probe(path: string): Promise<string | undefined> {
  return new Promise((done) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      done(undefined);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => done(code ?? 'unknown'));
  });
}

function refusedAt(path: string, code: string, key: 'socket_group' | 'control_group'): CliError {
  return new CliError(exitCode.noAgent, `${path}: ${code === 'EACCES' ? noPermission(path, key) : noAgent(code)}`);
}

function noAgent(code: string): string {
  const start = `start one with \`${ownName()} agent --config FILE\``;
  return `no agent runs there (${code}); ${start}, or name its socket with --socket PATH`;
}

function noPermission(path: string, key: 'socket_group' | 'control_group'): string {
  const remedies = {
    socket_group:
      "set socket_group in the agent's configuration to a group of this user (under systemd: SocketGroup= of the socket)",
    control_group:
      "what changes something is done at this socket: run it as the agent's user or root, or set control_group in the agent's configuration to a group of this user",
  };
  return `this user may not connect to it (EACCES): ${whoMayConnect(path)}; ${remedies[key]}`;
}
