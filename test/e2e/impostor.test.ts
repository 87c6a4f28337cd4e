import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ListedWorker, TestAgent } from './agent.ts';
import { python, root, spawnAgent, until, untilReady } from './agent.ts';
import { scrape } from './http.ts';

// A worker of pool a that tries to answer the callers of pool b.

let agent: TestAgent;
let victim: ListedWorker;
const pool = `{ app: impostor:app, python: ${python}, cwd: ${join(root, 'test/fixtures')} }`;
const pools = `a: ${pool}\nb: ${pool}`;

async function call(name: string, command: string, args: object = {}): Promise<string> {
  const { code, stdout, stderr } = await agent.cli('call', name, command, '--args', JSON.stringify(args));
  expect(stderr).toBe('');
  expect(code).toBe(0);
  return stdout.trim();
}

const attach = (token: string) => call('a', 'attach', { worker_id: victim.worker_id, token });

async function refusals(reason: string): Promise<number> {
  const text = await scrape(agent.http);
  return Number(new RegExp(`^pitwarden_link_refusals_total\\{reason="${reason}"\\} (\\d+)$`, 'm').exec(text)?.[1]);
}

beforeAll(async () => {
  agent = await spawnAgent(pools);
  await untilReady(agent, 'a', 1);
  [victim] = (await untilReady(agent, 'b', 1)) as [ListedWorker];
});

afterAll(() => agent.stop());

test("a worker finds nothing in /proc or the agent's files that lets it attach as another worker", async () => {
  const found = JSON.parse(await call('a', 'find', { pid: victim.pid, folder: agent.dir })) as string[];
  // At least the ledger's verifiers and checksums must be among the strings that were tried.
  expect(found.length).toBeGreaterThan(1);
  for (const token of found) expect(await attach(token)).toBe('UNAUTHENTICATED');
  expect(await refusals('wrong_token')).toBe(found.length);
  const environ = readFileSync(`/proc/${victim.pid}/environ`, 'latin1');
  expect(environ).toContain(`PITWARDEN_WORKER_ID=${victim.worker_id}`);
  expect(environ).not.toMatch(/TOKEN|[0-9a-f]{64}/);
});

test.runIf(process.platform === 'linux')('no thread of a worker can gain rights by a program with setuid', () => {
  const tasks = `/proc/${victim.pid}/task`;
  const statuses = readdirSync(tasks).map((task) => readFileSync(join(tasks, task, 'status'), 'latin1'));
  expect(statuses.length).toBeGreaterThan(1);
  for (const status of statuses) expect(status).toMatch(/^NoNewPrivs:\t1$/m);
});

test('a second hello with a valid token is refused and logged while the link is open, and the worker continues', async () => {
  const token = await call('b', 'give_token_away');
  expect(await attach(token)).toBe('ALREADY_EXISTS');
  expect(await refusals('already_attached')).toBe(1);
  const words = `a second hello was refused: this worker is attached, so another process may have its secret`;
  await until(() => agent.output().includes(words), 'the log to say so', agent.output);
  expect(await call('b', 'pid')).toBe(String(victim.pid));
  const [now] = await agent.workers('b');
  expect(now).toMatchObject({ worker_id: victim.worker_id, state: 'WORKER_STATE_READY' });
});

test('under the next agent the worker attaches with a later token, which invalidates the earlier ones', async () => {
  const stolen = await call('b', 'give_token_away');
  agent.signal('SIGKILL');
  await agent.exited;
  agent = await spawnAgent(pools, '', agent.dir);
  const [again] = await untilReady(agent, 'b', 1);
  expect(again?.pid).toBe(victim.pid);
  await untilReady(agent, 'a', 1);
  expect(await attach(stolen)).toBe('UNAUTHENTICATED');
  expect(await call('b', 'pid')).toBe(String(victim.pid));
  const ledger = join(agent.dir, 'state/ledger');
  const files = readdirSync(ledger).map((name) => readFileSync(join(ledger, name), 'utf8'));
  expect(files.every((text) => text.includes('"verifier"') && !text.includes('"token"'))).toBe(true);
});
