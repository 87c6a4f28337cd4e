import type { X509Certificate } from 'node:crypto';
import { expect, test } from 'vitest';
import type { CertificateHolder } from '../../src/domain/certificate-identity.ts';
import { identityUri } from '../../src/domain/certificate-identity.ts';
import type { IdentityRules } from '../../src/grpc/access/identity.ts';
import { identityOfCertificate, mayCall } from '../../src/grpc/access/identity.ts';

const rules: IdentityRules = { domain: 'd.example', mapped: new Map([['urn:ops', 'role/operator']]) };
const identityOf = (names: string | undefined) =>
  identityOfCertificate({ subjectAltName: names } as unknown as X509Certificate, rules);

test.each<[CertificateHolder, string[], boolean, boolean]>([
  [{ kind: 'role', role: 'viewer', pool: null }, ['viewer'], false, false],
  [{ kind: 'role', role: 'operator', pool: null }, ['operator'], false, false],
  [{ kind: 'role', role: 'caller', pool: null }, ['caller'], true, true],
  [{ kind: 'role', role: 'caller', pool: 'text' }, ['caller'], true, false],
  [{ kind: 'controller', name: 'eu-1' }, ['controller'], false, false],
  [{ kind: 'node', name: 'host-7' }, [], false, false],
])('a certificate of `pitwarden ca` for %o has the roles %j', (holder, roles, mayText, mayOther) => {
  const identity = identityOf(`DNS:a.example, URI:${identityUri('d.example', holder)}, IP Address:10.0.0.1`);
  expect([...identity.roles]).toEqual(roles);
  expect([mayCall(identity, 'text'), mayCall(identity, 'other')]).toEqual([mayText, mayOther]);
});

test('the roles and pools of several URIs add up', () => {
  const uri = (path: string) => `URI:spiffe://d.example/${path}`;
  const two = identityOf(`${uri('role/caller/pool/a')}, ${uri('role/caller/pool/b')}, ${uri('role/viewer')}`);
  expect([...two.roles]).toEqual(['caller', 'viewer']);
  expect(['a', 'b', 'c'].map((pool) => mayCall(two, pool))).toEqual([true, true, false]);
  const all = identityOf(`${uri('role/caller/pool/a')}, ${uri('role/caller')}`);
  expect(mayCall(all, 'c')).toBe(true);
  expect([...identityOf('URI:urn:ops').roles]).toEqual(['operator']);
});

test.each([
  ['nothing', undefined],
  ['another domain', 'URI:spiffe://d.example.org/role/operator'],
  ['a domain with a port or a user', 'URI:spiffe://d.example:1/role/operator, URI:spiffe://a@d.example/role/operator'],
  ['another scheme', 'URI:https://d.example/role/operator'],
  ['an unknown role', 'URI:spiffe://d.example/role/admin, URI:spiffe://d.example/role/controller'],
  ['no role', 'URI:spiffe://d.example/role, URI:spiffe://d.example/role/, URI:spiffe://d.example/controller/'],
  ['a longer path', 'URI:spiffe://d.example/role/operator/x, URI:spiffe://d.example/controller/a/b'],
  ['a query or a fragment', 'URI:spiffe://d.example/role/operator?a, URI:spiffe://d.example/role/operator#a'],
  ['percent-encoding', 'URI:spiffe://d.example/role/%6fperator'],
  ['upper case', 'URI:spiffe://D.example/role/operator, URI:SPIFFE://d.example/role/operator'],
  ['a pool of a role without pools', 'URI:spiffe://d.example/role/operator/pool/text'],
  ['no pool', 'URI:spiffe://d.example/role/caller/pool/, URI:spiffe://d.example/role/caller/pool'],
  ['no pool and a slash', 'URI:spiffe://d.example/role/caller/, URI:spiffe://d.example/role/caller//text'],
  [
    'a pool within a pool',
    'URI:spiffe://d.example/role/caller/pool/text/other, URI:spiffe://d.example/role/caller/pool//',
  ],
  ['what cannot be a pool', 'URI:spiffe://d.example/role/caller/pool/.., URI:spiffe://d.example/role/caller/pool/Text'],
  [
    'another word for pool',
    'URI:spiffe://d.example/role/caller/pools/text, URI:spiffe://d.example/role/caller/Pool/text',
  ],
  ['a name within a name', 'DNS:"a, URI:spiffe://d.example/role/operator, b"'],
  ['more names than an identity has', `${'DNS:a, '.repeat(20)}URI:spiffe://d.example/role/operator`],
])('a certificate with %s has no role', (_, names) => {
  const identity = identityOf(names);
  expect([...identity.roles]).toEqual([]);
  expect(mayCall(identity, 'text')).toBe(false);
});
