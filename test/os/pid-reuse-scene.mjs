import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { openOutputDirectory } from '../../dist/os/output/output-directory.js';
import { identify, isAlive, ticksSinceBoot } from '../../dist/os/process/identity.js';
import { signalGroup } from '../../dist/os/process/send-signal.js';
import { spawnWorker } from '../../dist/os/process/spawn-worker.js';
import { sweepTree } from '../../dist/os/process/tree.js';

// What pid-reuse.test.ts runs in a pid namespace of its own. The built sources: Node reads no TypeScript here.

const workerId = 'w-0';
const directory = mkdtempSync(join(tmpdir(), 'pw-'));
const outputDirectory = openOutputDirectory(directory, { onProblem: () => undefined });

async function startWorker(script) {
  const lines = [];
  const spawned = spawnWorker({
    workerId,
    outputDirectory,
    command: 'sh',
    args: ['-c', script],
    cwd: '/',
    cgroup: null,
    secret: Buffer.alloc(32),
    env: { PATH: process.env.PATH, PITWARDEN_WORKER_ID: workerId },
    nowMs: () => performance.now(),
    onLine: (line) => lines.push(line.text),
    onDropped: () => undefined,
    onSkipped: () => undefined,
  });
  const { identity } = await spawned.started;
  while (lines.length < 1) await nextTurn();
  return { spawned, identity, said: lines[0] };
}

/** Starts a program with this very pid. */
async function spawnAs(pid, command, args, options) {
  for (;;) {
    writeFileSync('/proc/sys/kernel/ns_last_pid', String(pid - 1));
    const child = spawn(command, args, { env: { PATH: process.env.PATH }, ...options });
    if (child.pid === pid) return child;
    // A thread of this process took it, and will be gone or not: try again.
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

/** Starts the stranger; the pid of the process that must live. */
const strangers = {
  'its pid': async (pid) => (await spawnAs(pid, 'sleep', ['1000'], { stdio: 'ignore' })).pid,
  'its group': async (pid) => (await spawnAs(pid, 'sleep', ['1000'], { stdio: 'ignore', detached: true })).pid,
  'the group of a leader that ended': async (pid) => {
    const script = 'sleep 1000 >/dev/null & echo $!';
    const leader = await spawnAs(pid, 'sh', ['-c', script], { stdio: ['ignore', 'pipe', 'ignore'], detached: true });
    const [line] = await once(leader.stdout, 'data');
    if (leader.exitCode === null) await once(leader, 'exit');
    return Number(line);
  },
};

async function withStranger(what) {
  const { spawned, identity } = await startWorker('echo up; exec sleep 1000');
  process.kill(identity.pid, 'SIGKILL');
  await spawned.exited;
  const endedAtTicks = spawned.endedAtTicks();
  // Pids come round again after much more than a tick.
  while (ticksSinceBoot() <= endedAtTicks) await nextTurn();
  const stranger = identify(await strangers[what](identity.pid));
  const target = { identity, workerId, endedAtTicks };
  signalGroup(identity, 'SIGKILL');
  const { survivors } = await sweepTree(target, { timeoutMs: 5_000 });
  // A signal that was sent has its effect before the next look at the process.
  const living = isAlive(stranger);
  process.kill(stranger.pid, 'SIGKILL');
  return { survivors, living };
}

/** A child without our variable, whose leader ended: only the session leads to it. */
async function withoutStranger() {
  const script = `env -i PATH="$PATH" sh -c 'echo $$; exec sleep 1000' & wait`;
  const { spawned, identity, said } = await startWorker(script);
  const child = identify(Number(said));
  process.kill(identity.pid, 'SIGKILL');
  await spawned.exited;
  const left = isAlive(child);
  const target = { identity, workerId, endedAtTicks: spawned.endedAtTicks() };
  const { survivors } = await sweepTree(target, { timeoutMs: 5_000 });
  return { left, survivors, living: isAlive(child) };
}

const [what] = process.argv.slice(2);
const told = what === 'no stranger' ? await withoutStranger() : await withStranger(what);
outputDirectory.close();
rmSync(directory, { recursive: true });
process.stdout.write(JSON.stringify(told));
