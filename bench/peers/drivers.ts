import { root } from '../paths.ts';
import { runCommand } from '../processes.ts';
import type { Measured } from '../statistics.ts';
import { freePort } from './http.ts';
import type { PeerVenv } from './venv.ts';

/** A peer without HTTP: its Python driver starts the system, measures it, ends it, and prints one line of JSON. */
export interface DriverPeer {
  readonly name: string;
  readonly package: string;
  readonly script: string;
}

export const driverPeers: readonly DriverPeer[] = [
  { name: 'Ray actors', package: 'ray', script: 'ray_load.py' },
  { name: 'Celery with Redis', package: 'celery', script: 'celery_load.py' },
];

const withinMs = 180_000;

export async function drive(peer: DriverPeer, venv: PeerVenv, args: readonly string[]): Promise<Measured> {
  const why = venv.missing.get(peer.package);
  if (why !== undefined) throw new Error(`pip: ${why}`);
  const env = { PYTHONDONTWRITEBYTECODE: '1', PEER_REDIS_URL: `redis://127.0.0.1:${await freePort()}/0` };
  const startedAtMs = performance.now();
  try {
    const output = await runCommand(venv.bin('python'), [`${root}bench/peers/${peer.script}`, ...args], {
      env,
      withinMs,
    });
    return JSON.parse(output.trimEnd().split('\n').at(-1) ?? '') as Measured;
  } catch (error) {
    if (performance.now() - startedAtMs > withinMs) throw new Error(`not done after ${withinMs / 1000} s`);
    // A Python program's last line says why it failed.
    throw new Error(String(error).trimEnd().split('\n').at(-1));
  }
}
