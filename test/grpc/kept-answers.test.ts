import { expect, test } from 'vitest';
import { createKeptAnswers } from '../../src/grpc/control/kept-answers.ts';
import { Refusal } from '../../src/grpc/control/refusals.ts';

const invalidArgument = 3;
const alreadyExists = 6;
const resourceExhausted = 8;
const failedPrecondition = 9;

function scene(bounds = { keptMs: 1_000, ids: 10, bytes: 10_000 }) {
  const clock = { nowMs: 0 };
  const kept = createKeptAnswers(() => clock.nowMs, bounds);
  let runs = 0;
  const once = (
    requestId: string,
    { owner = 'o', method = 'm', digest = 'd' } = {},
    act = async (): Promise<object> => ({ run: runs }),
  ) =>
    kept.once({ owner, requestId, method, digest }, () => {
      runs += 1;
      return act();
    });
  return { clock, once, runs: () => runs };
}

test('a repeated call gets the first answer until its time is over, and then counts as new', async () => {
  const { clock, once } = scene();
  expect(await once('a')).toEqual({ run: 1 });
  clock.nowMs = 999;
  expect(await once('a')).toEqual({ run: 1 });
  clock.nowMs = 1_000;
  expect(await once('a')).toEqual({ run: 2 });
});

test('a call that comes while the first one runs waits for the same answer', async () => {
  const { once, runs } = scene();
  let answer: (value: object) => void = () => undefined;
  const first = once('a', {}, () => new Promise((resolve) => (answer = resolve)));
  const second = once('a');
  answer({ is: 'the first' });
  expect(await Promise.all([first, second])).toEqual([{ is: 'the first' }, { is: 'the first' }]);
  expect(runs()).toBe(1);
});

test('a refusal is an answer too', async () => {
  const { once, runs } = scene();
  const refuse = () => Promise.reject(new Refusal(failedPrecondition, 'the node is stopping'));
  const refused = { code: failedPrecondition, details: 'the node is stopping' };
  await expect(once('a', {}, refuse)).rejects.toMatchObject(refused);
  await expect(once('a')).rejects.toMatchObject(refused);
  expect(runs()).toBe(1);
});

test.each([
  ['another method', { method: 'other' }, /"a" was used for m$/],
  ['other content', { digest: 'other' }, /"a" was used with other content$/],
])('an id that was used for %s is refused', async (_, call, details) => {
  const { once } = scene();
  await once('a');
  await expect(once('a', call)).rejects.toMatchObject({
    code: invalidArgument,
    details: expect.stringMatching(details),
  });
});

test('ids of different callers have nothing to do with each other', async () => {
  const { once } = scene();
  expect(await once('a', { owner: 'one' })).toEqual({ run: 1 });
  expect(await once('a', { owner: 'two' })).toEqual({ run: 2 });
});

test('a caller that uses many ids leaves room for others, and ids become free with time', async () => {
  const { clock, once } = scene();
  for (let id = 0; id < 5; id += 1) await once(`${id}`, { owner: 'busy' });
  await expect(once('6', { owner: 'busy' })).rejects.toMatchObject({
    code: resourceExhausted,
    details: expect.stringMatching(
      /^request_id: expected room for another one among 10, got 5 of this caller and 0 of/,
    ),
  });
  expect(await once('1', { owner: 'quiet' })).toEqual({ run: 6 });
  clock.nowMs = 1_000;
  expect(await once('6', { owner: 'busy' })).toEqual({ run: 7 });
});

test('beyond the bound of bytes the oldest content is dropped, and its calls are still not carried out again', async () => {
  const { once, runs } = scene({ keptMs: 1_000, ids: 10, bytes: 100 });
  const long = async () => ({ text: 'x'.repeat(60) });
  await once('a', {}, long);
  await once('b', {}, long);
  await expect(once('a')).rejects.toMatchObject({ code: alreadyExists });
  expect(await once('b')).toEqual(await long());
  expect(runs()).toBe(2);
});
