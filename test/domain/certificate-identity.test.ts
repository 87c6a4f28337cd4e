import { expect, test } from 'vitest';
import type { CertificateHolder } from '../../src/domain/certificate-identity.ts';
import {
  holderNameProblem,
  identityUri,
  poolNameProblem,
  trustDomainProblem,
} from '../../src/domain/certificate-identity.ts';

test.each<[CertificateHolder, string]>([
  [{ kind: 'role', role: 'viewer', pool: null }, 'spiffe://d.example/role/viewer'],
  [{ kind: 'role', role: 'caller', pool: 'text' }, 'spiffe://d.example/role/caller/pool/text'],
  [{ kind: 'controller', name: 'eu-1' }, 'spiffe://d.example/controller/eu-1'],
  [{ kind: 'node', name: 'host-7.eu' }, 'spiffe://d.example/node/host-7.eu'],
])('the identity of %o is %s', (holder, uri) => {
  expect(identityUri('d.example', holder)).toBe(uri);
});

test.each([
  [
    trustDomainProblem,
    ['pitwarden.local', 'a', 'a_b-c.d'],
    ['', 'A.example', 'a/b', '.a', 'a.', 'a b', 'a'.repeat(256)],
  ],
  [holderNameProblem, ['n', 'Host-7.eu_1'], ['', '.', '..', 'a/b', 'a\n', 'ä', 'n'.repeat(254)]],
  [poolNameProblem, ['text', 'a-b_1'], ['', 'Text', '1a', 'a/b', 'a.b', 'p'.repeat(64)]],
])('%o accepts %j and refuses %j', (problem, good, bad) => {
  for (const text of good) expect([text, problem(text)]).toEqual([text, undefined]);
  for (const text of bad) expect(problem(text)).toMatch(/^expected .*, got "/);
});
