import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { pidIn, recovery } from '../../bench/peers/recovery.ts';

// `npm run bench -- peers` measures from a kill to the next answer: of the process that answered, by another one.

test('the process that answered is killed, and the next answer counts when another one gives it', async () => {
  const worker = spawn('sleep', ['60']);
  const ended = once(worker, 'exit');
  const answers = [worker.pid, undefined, undefined, process.pid];
  const measured = await recovery(async () => {
    const answer = answers.shift();
    // Another process answers once this one is gone, which a busy machine takes a while to see to.
    if (answer === process.pid) await ended;
    return answer;
  });
  expect(await ended).toEqual([null, 'SIGKILL']);
  expect(measured).toEqual({ ms: expect.any(Number) });
  expect(answers).toEqual([]);
});

test('an answer of the process that was killed makes the measurement void', async () => {
  const worker = spawn('sleep', ['60']);
  await expect(recovery(async () => worker.pid)).rejects.toThrow(`process ${worker.pid} answered after it was killed`);
});

test('without an answer before the kill nothing is killed', async () => {
  await expect(recovery(async () => undefined)).rejects.toThrow('no answer before the kill');
});

test('only a pid is a pid', () => {
  expect(pidIn(Buffer.from('4242'))).toBe(4242);
  for (const other of ['', '0', '-1', 'x', '12 ', '1e3']) expect(pidIn(Buffer.from(other))).toBeUndefined();
});
