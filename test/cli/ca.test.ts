import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

const bin = new URL('../../bin/pitwarden', import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), 'pw-'));
afterAll(() => rmSync(folder, { recursive: true }));

function ca(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, 'ca', ...args], {
    cwd: folder,
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

function json(...args: string[]) {
  const { status, stdout, stderr } = ca(...args, '--json');
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout);
}

beforeAll(() => {
  json('init', '--dir', 'ca', '--domain', 'd.example');
});

test('what was issued and revoked is shown, as a table and as JSON', () => {
  const node = json('issue', '--dir', 'ca', '--out', 'n1', '--node', 'n1', '--host', 'localhost,::1,localhost');
  expect(node).toMatchObject({
    identity: 'spiffe://d.example/node/n1',
    hosts: ['localhost', '::1'],
    revoked_at_ms: 0,
    certificate: 'n1.crt',
    key: 'n1.key',
  });
  const issued = ca('issue', '--dir', 'ca', '--out', 'op', '--role', 'caller', '--pool', 'text', '--days', '9');
  expect(issued).toMatchObject({ status: 0, stderr: '' });
  expect(issued.stdout).toMatch(
    /^op\.crt, op\.key: spiffe:\/\/d\.example\/role\/caller\/pool\/text, valid until \d{4}-\d\d-\d\d\nserial [0-9A-F]{32}\n$/,
  );
  const revoked = json('revoke', '--dir', 'ca', 'op.crt');
  expect(revoked).toMatchObject({ crl: 'ca/ca.crl', crl_number: 2 });
  const again = ca('revoke', '--dir', 'ca', revoked.serial);
  expect(again.stdout).toBe(
    `${revoked.serial} (${revoked.identity}) is revoked since ${new Date(revoked.revoked_at_ms).toISOString()}\n` +
      'ca/ca.crl is revocation list 3; give it to your servers\n',
  );

  const shown = json('show', '--dir', 'ca');
  expect(shown).toMatchObject({ dir: 'ca', domain: 'd.example', certificate: 'ca/ca.crt', crl_number: 3 });
  expect(shown.certificates).toMatchObject([
    { serial: node.serial, identity: node.identity },
    { serial: revoked.serial, revoked_at_ms: revoked.revoked_at_ms },
  ]);
  const lines = ca('show', '--dir', 'ca').stdout.split('\n');
  expect(lines[0]).toMatch(/^CA of d\.example, valid until \d{4}-\d\d-\d\d, SHA-256 ([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
  expect(lines[2]).toMatch(/^SERIAL +IDENTITY +HOSTS +EXPIRES +STATE$/);
  expect(lines[3]).toMatch(/^[0-9A-F]{32} {2}spiffe:\/\/d\.example\/node\/n1 +localhost,::1 +\S+ +valid$/);
  expect(lines[4]).toMatch(/ - +\S+ +revoked \d{4}-\d\d-\d\d$/);
});

test.each<[readonly string[], string]>([
  [['issue', '--dir', 'ca'], "error: required option '--out <name>' not specified"],
  [['issue', '--out', 'x'], "error: required option '--dir <dir>' not specified"],
  [['issue', '--dir', 'ca', '--out', 'x'], 'expected one of --role, --controller and --node, got none of them'],
  [
    ['issue', '--dir', 'ca', '--out', 'x', '--role', 'viewer', '--node', 'n'],
    'expected one of --role, --controller and --node, got --role and --node',
  ],
  [
    ['issue', '--dir', 'ca', '--out', 'x', '--role', 'admin'],
    '--role: expected one of viewer, operator, caller, got "admin"',
  ],
  [['issue', '--dir', 'ca', '--out', 'x', '--node', 'n'], '--node: expected --host HOST[,HOST] with it'],
  [
    ['issue', '--dir', 'ca', '--out', 'x', '--node', 'n', '--host', 'a,'],
    '--host: expected host names and IP addresses, separated by commas, got ""',
  ],
  [['issue', '--dir', 'ca', '--out', 'x', '--node', 'a/b', '--host', 'a'], '--node: expected a name of letters'],
  [
    ['issue', '--dir', 'ca', '--out', 'x', '--node', 'n', '--host', 'a', '--pool', 'p'],
    '--pool: expected it with --role caller, got it without',
  ],
  [
    ['issue', '--dir', 'ca', '--out', 'x', '--role', 'viewer', '--host', 'a'],
    '--host: expected it with --node or --controller, got it with --role',
  ],
  [['issue', '--dir', 'ca', '--out', 'x', '--role', 'caller', '--pool', 'P'], "--pool: expected a pool's name"],
  [['issue', '--dir', 'ca', '--out', '../', '--role', 'viewer'], '--out: expected the name of files, got "../"'],
  [
    ['issue', '--dir', 'ca', '--out', 'x', '--role', 'viewer', '--days', '1.5'],
    '--days: expected a whole number from 1 to 36500, got "1.5"',
  ],
  [['init', '--dir', 'other', '--days', '36501'], '--days: expected a whole number from 1 to 36500, got "36501"'],
  [['init', '--dir', 'other', '--domain', 'A/b'], '--domain: expected lower-case letters, digits'],
  [['isue', '--dir', 'ca'], "error: unknown command 'isue'\n(Did you mean issue?)"],
  [['revok', '--dir', 'ca'], "error: unknown command 'revok'\n("],
])('ca %j is refused', (args, message) => {
  const before = readdirSync(folder);
  const { status, stdout, stderr } = ca(...args);
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
  expect(stderr.slice(0, message.length)).toBe(message);
  expect(stderr).not.toContain('Did you mean revoke');
  expect(readdirSync(folder)).toEqual(before);
});

test('an error is one line, or JSON', () => {
  expect(ca('show', '--dir', 'none')).toEqual({
    status: 1,
    stdout: '',
    stderr: 'none: expected the folder of a CA, which ca init makes, got nothing of this name\n',
  });
  const { status, stderr } = ca('init', '--dir', 'ca', '--json');
  expect(status).toBe(1);
  expect(JSON.parse(stderr)).toEqual({
    error: {
      message: 'ca: expected a folder that is empty or does not exist, got the folder of a CA',
      exit_code: 1,
    },
  });
  const failed = ca('init', '--dir', '/dev/null/ca');
  expect(failed.status).toBe(1);
  expect(failed.stderr).toMatch(/^\/dev\/null.*: expected mkdir to succeed, got E(EXIST|NOTDIR)\n$/);
});

test('of processes that issue at once, none loses an entry, and of those that want one file, one gets it', async () => {
  const names = ['a', 'b', 'c', 'd', 'same', 'same', 'same'];
  const statuses = names.map(async (out) => {
    const args = [bin, 'ca', 'issue', '--dir', 'ca', '--out', out, '--role', 'viewer'];
    const [status] = await once(spawn(process.execPath, args, { cwd: folder, stdio: 'ignore' }), 'exit');
    return [out, status];
  });
  expect((await Promise.all(statuses)).sort()).toEqual([
    ['a', 0],
    ['b', 0],
    ['c', 0],
    ['d', 0],
    ['same', 0],
    ['same', 1],
    ['same', 1],
  ]);
  const { certificates } = json('show', '--dir', 'ca');
  const viewers = certificates.filter(({ identity }: { identity: string }) => identity.endsWith('/role/viewer'));
  expect(viewers).toHaveLength(5);
  expect(readdirSync(join(folder, 'ca')).sort()).toEqual(['ca.crl', 'ca.crt', 'ca.key', 'index.json']);
});

test('the commands of docs/control-plane-tls.md work as they stand there', () => {
  const page = readFileSync(new URL('../../docs/control-plane-tls.md', import.meta.url), 'utf8');
  const lines = [...page.matchAll(/^pitwarden ca (.*?)(?: +#.*)?$/gm)].map(([, args = '']) => args.split(' '));
  expect(lines.map(([name]) => name)).toEqual(['init', 'issue', 'issue', 'issue', 'issue', 'show', 'revoke']);
  const elsewhere = mkdtempSync(join(folder, 'docs-'));
  for (const args of lines) {
    const ended = spawnSync(process.execPath, [bin, 'ca', ...args], { cwd: elsewhere, encoding: 'utf8' });
    expect({ args, status: ended.status, stderr: ended.stderr }).toEqual({ args, status: 0, stderr: '' });
  }
  expect(readdirSync(elsewhere).sort()).toEqual(
    ['alice', 'controller', 'host-1', 'web']
      .flatMap((name) => [`${name}.crt`, `${name}.key`])
      .concat('ca')
      .sort(),
  );
});
