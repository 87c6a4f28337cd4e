import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { acceptToken, dialsMax, isRepeatedToken, newWorkerSecret } from '../../src/grpc/worker-link/token.ts';

const hashTimes = (bytes: Buffer, times: number): string => {
  let hash = bytes;
  for (let count = 0; count < times; count += 1) hash = createHash('sha256').update(hash).digest();
  return hash.toString('hex');
};

describe("tokens of a worker's chain", () => {
  const { secret, verifier } = newWorkerSecret();
  /** Makes a token as the SDK does. */
  const tokenOf = (dial: number): string => hashTimes(secret, dialsMax - dial);

  test('each next token is accepted, and becomes the verifier of the one after it', () => {
    let last: string = verifier;
    for (const dial of [1, 2, 3]) {
      expect(acceptToken(tokenOf(dial), last)).toBe(tokenOf(dial));
      last = tokenOf(dial);
    }
  });

  test('a token is accepted although earlier ones never arrived, up to the last token of the chain', () => {
    expect(acceptToken(tokenOf(7), verifier)).toBe(tokenOf(7));
    expect(acceptToken(tokenOf(dialsMax), verifier)).toBe(secret.toString('hex'));
  });

  test('a token is refused if it or a later one was used', () => {
    expect(acceptToken(tokenOf(1), tokenOf(1))).toBeNull();
    expect(acceptToken(tokenOf(2), tokenOf(5))).toBeNull();
    expect(acceptToken(verifier, verifier)).toBeNull();
  });

  test.each([
    ['empty', ''],
    ['too short', 'ab'.repeat(31)],
    ['too long', 'ab'.repeat(33)],
    ['not hexadecimal', 'xy'.repeat(32)],
    ['in capitals', tokenOf(1).toUpperCase()],
    ['followed by a line end', `${tokenOf(1)}\n`],
    ["another worker's", newWorkerSecret().secret.toString('hex')],
  ])('a token is refused if it is %s', (_, token) => expect(acceptToken(token, verifier)).toBeNull());
});

test('a worker with PITWARDEN_TOKEN of an older agent may dial with that token repeatedly, and with no other', () => {
  const token = 'ab'.repeat(32);
  const verifier = hashTimes(Buffer.from(token, 'hex'), 1);
  expect([token, token, 'cd'.repeat(32), ''].map((each) => isRepeatedToken(each, verifier))).toEqual([
    true,
    true,
    false,
    false,
  ]);
});
