import { join } from 'node:path';
import type { OutputDirectory } from '../../src/os/output/output-directory.ts';
import { openOutputDirectory } from '../../src/os/output/output-directory.ts';
import { identify, isAlive } from '../../src/os/process/identity.ts';
import { spawnWorker } from '../../src/os/process/spawn-worker.ts';

export function testOutput(directory: string): OutputDirectory {
  return openOutputDirectory(join(directory, 'output'), {
    onProblem: (message) => {
      throw new Error(message);
    },
  });
}

/** Starts a shell script as a worker. */
export async function shellWorker(
  cwd: string,
  script: string,
  options: {
    readonly workerId: string;
    readonly env?: Record<string, string>;
    readonly cgroup?: string;
    readonly secret?: Buffer;
  },
) {
  const lines: string[] = [];
  const spawned = spawnWorker({
    workerId: options.workerId,
    outputDirectory: testOutput(cwd),
    command: 'sh',
    args: ['-c', script],
    cwd,
    cgroup: options.cgroup ?? null,
    secret: options.secret ?? Buffer.alloc(32),
    env: { PATH: process.env['PATH'] ?? '', PITWARDEN_WORKER_ID: options.workerId, ...options.env },
    nowMs: () => performance.now(),
    onLine: (line) => lines.push(line.text),
    onDropped: () => undefined,
    onSkipped: () => undefined,
  });
  const started = await spawned.started;
  if (!started.ok) throw new Error(started.message);
  const line = async (count: number): Promise<string> => {
    while (lines.length < count) await new Promise((resolve) => setImmediate(resolve));
    return lines[count - 1] ?? '';
  };
  return { spawned, identity: started.identity, line };
}

export function isProcessRunning(pid: number): boolean {
  const identity = identify(pid);
  return identity !== undefined && isAlive(identity);
}
