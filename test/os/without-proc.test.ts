import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test, vi } from 'vitest';
import { sampleWithPidusage } from '../../src/os/process/memory.ts';
import { membersOf, readWithPs } from '../../src/os/process/process-table.ts';
import { killDescendants } from '../../src/os/process/tree.ts';

// The code for systems without /proc (macOS), tested here with the real ps and pidusage.

test('without /proc a tree is found, measured and killed, including a child in its own session', async () => {
  const script = 'setsid sleep 1000 & echo $!; wait';
  const parent = spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'ignore'], detached: true });
  const [line] = (await once(parent.stdout, 'data')) as [Buffer];
  const pid = parent.pid ?? 0;
  const target = { identity: { bootId: '', pid, startTime: '' }, workerId: 'none-of-these' };
  const members = membersOf(await readWithPs(), target);
  expect(members.map((row) => row.pid)).toContain(pid);
  expect(members.length).toBeGreaterThanOrEqual(2);

  const sample = await sampleWithPidusage(members);
  expect(sample.rssBytes).toBeGreaterThan(100_000);
  expect(sample).toMatchObject({ pssBytes: 0, processes: members.length });

  const exited = once(parent, 'exit');
  await killDescendants(pid);
  await exited;
  // On a busy machine a process ends some time after its signal was sent.
  await vi.waitFor(
    async () => {
      const left = (await readWithPs()).filter((row) => members.some((member) => member.pid === row.pid));
      expect(left, `started ${line.toString()}`).toEqual([]);
    },
    { timeout: 10_000 },
  );
});
