import { once } from 'node:events';
import { request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { root } from '../paths.ts';
import type { Subject } from '../processes.ts';
import { startSubject } from '../processes.ts';
import type { PeerVenv } from './venv.ts';

/** `pid` answers with the worker's process id. */
export type PeerFunction = 'echo' | 'handler_5ms' | 'pid';

export interface HttpPeer {
  readonly name: string;
  readonly package: string;
  command(wanted: Wanted): Command;
}

interface Wanted {
  readonly port: string;
  readonly workers: string;
  readonly function: PeerFunction;
}

interface Command {
  /** Of the venv. */
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export interface RunningPeer extends Subject {
  /** `127.0.0.1:PORT`. */
  readonly address: string;
  readonly workers: readonly number[];
}

const apps = `${root}bench/peers`;

export const httpPeers: readonly HttpPeer[] = [
  {
    name: 'gunicorn gthread',
    package: 'gunicorn',
    command: ({ port, workers }) => ({
      program: 'gunicorn',
      args: [
        // Connections stay with the worker that accepted them; without --reuse-port one worker takes nearly all of a burst.
        ...['--chdir', apps, '--bind', `127.0.0.1:${port}`, '--reuse-port', '--worker-class', 'gthread'],
        ...['--workers', workers, '--threads', '1', '--no-control-socket', 'gunicorn_app:app'],
      ],
    }),
  },
  {
    name: 'granian',
    package: 'granian',
    command: ({ port, workers }) => ({
      program: 'granian',
      args: [
        ...['--working-dir', apps, '--host', '127.0.0.1', '--port', port, '--interface', 'rsgi', '--http', '1'],
        ...['--no-ws', '--workers', workers, '--respawn-failed-workers', 'granian_app:app'],
      ],
    }),
  },
  {
    name: 'mosec',
    package: 'mosec',
    command: ({ port, workers, function: name }) => ({
      program: 'python',
      args: [`${apps}/mosec_app.py`, '--address', '127.0.0.1', '--port', port, '--log-level', 'warning'],
      env: { PEER_WORKERS: workers, PEER_FUNCTION: name },
    }),
  },
  {
    name: 'LitServe',
    package: 'litserve',
    command: ({ port, workers }) => ({
      program: 'python',
      args: [`${apps}/litserve_app.py`],
      env: { PEER_WORKERS: workers, PEER_PORT: port },
    }),
  },
];

/** Returns when all workers have loaded the application and a request was answered. */
export async function startHttpPeer(
  peer: HttpPeer,
  venv: PeerVenv,
  wanted: { workers: number; function: PeerFunction },
): Promise<RunningPeer> {
  const why = venv.missing.get(peer.package);
  if (why !== undefined) throw new Error(`pip: ${why}`);
  const port = String(await freePort());
  const address = `127.0.0.1:${port}`;
  const { program, args, env } = peer.command({ port, workers: String(wanted.workers), function: wanted.function });
  const subject = await startSubject(venv.bin(program), args, {
    env: { PYTHONDONTWRITEBYTECODE: '1', ...env },
    readyWithinMs: 120_000,
    ready: async (output) =>
      workersIn(output).length >= wanted.workers && (await askHttp(address, wanted.function, 1_000)) !== undefined,
  });
  return { ...subject, address, workers: workersIn(subject.output()) };
}

/** Each worker prints such a line when it has loaded the application. */
function workersIn(output: string): number[] {
  return [...output.matchAll(/worker ready: (\d+)/g)].map(([, pid]) => Number(pid));
}

/** Sends one byte over a connection of its own; the good answer, if there is one. */
export function askHttp(address: string, name: PeerFunction, withinMs: number): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const [host, port] = address.split(':');
    const options = { host, port, path: `/${name}`, method: 'POST', agent: false as const };
    const asked = request({ ...options, signal: AbortSignal.timeout(withinMs) }, async (answer) => {
      try {
        const body = Buffer.concat(await answer.toArray());
        const isGood = answer.statusCode === 200 && (name === 'pid' ? body.length > 0 : body.toString() === 'x');
        resolve(isGood ? body : undefined);
      } catch {
        resolve(undefined);
      }
    });
    asked.on('error', () => resolve(undefined));
    asked.end('x');
  });
}

/** A port that nothing listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
