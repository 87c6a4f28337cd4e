import { EventEmitter } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { NodeRecord } from '../../src/domain/action.ts';
import { initialState } from '../../src/domain/state.ts';
import { controlService } from '../../src/grpc/control/service.ts';
import type { ControlSource } from '../../src/grpc/control/source.ts';
import { services } from '../../src/grpc/proto.ts';
import type { EventHistory } from '../../src/telemetry/event-history.ts';
import { openEventHistory } from '../../src/telemetry/event-history.ts';

let state: string;
let history: EventHistory;

beforeEach(() => {
  state = mkdtempSync(join(tmpdir(), 'pitwarden-history-'));
  history = open();
});

afterEach(async () => {
  await history.close();
  rmSync(state, { recursive: true, force: true });
});

/** Monotonic times are unix times here. */
function open(): EventHistory {
  return openEventHistory(state, {
    toUnixMs: (ms) => ms,
    onProblem: (message) => {
      throw new Error(message);
    },
  });
}

interface Page {
  readonly events: readonly { readonly at_ms: number; readonly message: string; readonly [field: string]: unknown }[];
  readonly next_page_token: string;
  readonly resume_token: string;
}

/** Calls ListEvents of an agent that has this history. */
function list(request: object): Promise<Page> {
  const unused = { state: initialState, subscribe: () => () => undefined };
  const source = { ...unused, history: history.read } as Partial<ControlSource> as ControlSource;
  const { ListEvents: call } = controlService(source) as unknown as Record<string, (...args: unknown[]) => void>;
  return new Promise((resolve, reject) => {
    call?.(
      Object.assign(new EventEmitter(), {
        request,
        getPath: () => '/pitwarden.v1.Control/ListEvents',
        getPeer: () => 'unix:',
      }),
      (error: object | null, page: Page) => (error === null ? resolve(page) : reject(error)),
    );
  });
}

async function listAll(request: object): Promise<Page['events']> {
  const events: Page['events'][number][] = [];
  for (let page_token = ''; ; ) {
    const page = await list({ ...request, page_token });
    events.push(...page.events);
    page_token = page.next_page_token;
    if (page_token === '') return events;
  }
}

function record(atMs: number, patch: Partial<NodeRecord> = {}): NodeRecord {
  return { kind: 'worker_ready', atMs, pool: 'p', workerId: 'p-0-abcdefgh', message: `at ${atMs}`, ...patch };
}

const messages = (events: Page['events']): string[] => events.map(({ message }) => message);
const invalidArgument = 3;

test('a later agent lists what an earlier one recorded, oldest first, with all its fields', async () => {
  history.append(record(5, { kind: 'node_draining', pool: undefined, workerId: undefined } as never));
  history.append(record(6, { kind: 'worker_exited', reason: 'exit_code', exit: { code: 0, signal: null } }));
  await history.close();
  history = open();
  history.append(record(7, { kind: 'worker_exited', reason: 'signal', exit: { code: null, signal: 'SIGKILL' } }));
  const none = { pool: '', worker_id: '', reason: '', exit_code: 0, has_exit_code: false, signal: '' };
  const worker = { ...none, pool: 'p', worker_id: 'p-0-abcdefgh', kind: 'worker_exited' };
  const { events } = await list({});
  expect(events).toEqual([
    { ...none, kind: 'node_draining', at_ms: 5, message: 'at 5' },
    { ...worker, reason: 'exit_code', has_exit_code: true, at_ms: 6, message: 'at 6' },
    { ...worker, reason: 'signal', signal: 'SIGKILL', at_ms: 7, message: 'at 7' },
  ]);
});

test('an event is listed as soon as it was recorded', async () => {
  for (let n = 0; n < 50; n += 1) {
    history.append(record(n));
    expect((await list({ since_ms: n })).events).toHaveLength(1);
  }
});

test('since, until, pool, worker and kinds choose events', async () => {
  history.append(record(10));
  history.append(record(20, { pool: 'q', workerId: 'q-0-abcdefgh' }));
  history.append(record(30, { kind: 'worker_exited' }));
  history.append(record(40, { kind: 'pool_scaled', workerId: undefined } as never));
  expect(messages(await listAll({ since_ms: 20 }))).toEqual(['at 20', 'at 30', 'at 40']);
  expect(messages(await listAll({ since_ms: 20, until_ms: 40 }))).toEqual(['at 20', 'at 30']);
  expect(messages(await listAll({ pool: 'q' }))).toEqual(['at 20']);
  expect(messages(await listAll({ worker_id: 'p-0-abcdefgh' }))).toEqual(['at 10', 'at 30']);
  expect(messages(await listAll({ kinds: ['worker_exited', 'pool_scaled'] }))).toEqual(['at 30', 'at 40']);
  expect(messages(await listAll({ pool: 'gone' }))).toEqual([]);
  await expect(list({ kinds: ['worker_exploded'] })).rejects.toMatchObject({
    code: invalidArgument,
    details: expect.stringContaining('got "worker_exploded"'),
  });
});

test('pages of any size hold each event once; an invented token is refused', async () => {
  for (let n = 0; n < 25; n += 1) history.append(record(n, n % 2 === 0 ? {} : { pool: 'q' }));
  const first = await list({ page_size: 7 });
  expect(first.events).toHaveLength(7);
  expect(first.next_page_token).toBe(first.resume_token);
  for (const page_size of [1, 7, 25, 100]) {
    expect(messages(await listAll({ page_size }))).toEqual(Array.from({ length: 25 }, (_, n) => `at ${n}`));
    expect(await listAll({ page_size, pool: 'q' })).toHaveLength(12);
  }
  for (const page_token of ['x', 'MS4t', Buffer.from('[1]').toString('base64url'), 'A'.repeat(10_000)]) {
    await expect(list({ page_token })).rejects.toMatchObject({ code: invalidArgument });
  }
});

test('resume_token answers what was recorded since, by the next agent too', async () => {
  history.append(record(1));
  const { resume_token, next_page_token } = await list({});
  expect(next_page_token).toBe('');
  expect((await list({ page_token: resume_token })).events).toEqual([]);
  history.append(record(2));
  await history.close();
  history = open();
  history.append(record(3));
  const later = await list({ page_token: resume_token });
  expect(messages(later.events)).toEqual(['at 2', 'at 3']);
  expect((await list({ page_token: later.resume_token })).events).toEqual([]);
});

test('no page is larger than 4 MiB, whatever the texts are, and none holds up the event loop for long', async () => {
  // Control characters grow when they are shown.
  const message = '\u202e語'.repeat(5_000);
  let place = '';
  for (let batch = 0; batch < 20; batch += 1) {
    for (let n = 0; n < 100; n += 1) history.append(record(batch * 100 + n, { message }));
    // Waits until they are written.
    place = (await list({ page_token: place })).resume_token;
  }
  let slowestMs = 0;
  let lookedAtMs = performance.now();
  const look = setInterval(() => {
    const nowMs = performance.now();
    slowestMs = Math.max(slowestMs, nowMs - lookedAtMs);
    lookedAtMs = nowMs;
  }, 1);
  let count = 0;
  for (let page_token = ''; ; ) {
    const page = await list({ page_token });
    expect(services.Control['ListEvents']?.responseSerialize(page).length).toBeLessThan(4 * 1024 * 1024);
    count += page.events.length;
    page_token = page.next_page_token;
    if (page_token === '') break;
  }
  clearInterval(look);
  // The ring has 16 MiB, which is less than all of these.
  expect(count).toBeGreaterThan(1_000);
  expect(count).toBeLessThan(2_000);
  expect(slowestMs).toBeLessThan(500);
  expect(history.dropped()).toBe(0);
});

test('of callers that all read at once some are refused, and the others get their answers', async () => {
  history.append(record(1));
  const answers = await Promise.allSettled(Array.from({ length: 60 }, () => list({})));
  const refused = answers.filter((answer) => answer.status === 'rejected');
  expect(refused.length).toBeGreaterThan(0);
  expect(refused.length).toBeLessThan(60);
  for (const { reason } of refused)
    expect(reason).toMatchObject({ code: 14, details: expect.stringContaining('too many callers') });
  expect((await list({})).events).toHaveLength(1);
});
