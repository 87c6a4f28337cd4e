import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerDuplexStream, sendUnaryData } from '@grpc/grpc-js';
import { afterAll, expect, test } from 'vitest';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import { createServer } from '../../src/grpc/server.ts';
import { buildGoClients, goColdMs, goProblem, runIn } from '../go.ts';
import { needs } from '../needs.ts';

const folder = mkdtempSync(join(tmpdir(), 'pitwarden-go-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface Request {
  readonly request_id: string;
  readonly payload: Buffer;
}

/** Answers with the arguments. An item of Submit gets a value and two errors, of which one says that nothing has begun. */
async function serve(target: string): Promise<() => Promise<void>> {
  const api = createServer({ messageMaxBytes: 1024 * 1024, budget: createMemoryBudget(2 ** 24) });
  const unused = () => undefined;
  api.server.addService(services.Execution, {
    Execute: ({ request }: { request: Request }, callback: sendUnaryData<object>) =>
      callback(null, { payload: request.payload, request_id: request.request_id }),
    ExecuteStream: unused,
    Submit: (call: ServerDuplexStream<{ items: { request: Request }[] }, object>) => {
      call.on('data', ({ items }: { items: { request: Request }[] }) => {
        for (const { request } of items) {
          const { request_id, payload } = request;
          call.write({ results: [{ request_id, response: { payload }, more: true }] });
          call.write({ results: [{ request_id, error: { code: 14, message: 'gone', may_have_begun: false } }] });
          call.write({ results: [{ request_id, error: { code: 14, message: 'gone' } }] });
        }
      });
      call.on('end', () => call.end());
    },
  });
  const control = Object.keys(services.Control).map((name) => [name, unused]);
  api.server.addService(services.Control, {
    ...Object.fromEntries(control),
    // Without `_size`, a size of 0 could not be told from none.
    ScalePool: ({ request }: { request: { size: number; _size?: string } }, callback: sendUnaryData<object>) =>
      callback(null, { size: request._size === undefined ? 99 : request.size, state: 'POOL_STATE_DRAINING' }),
  });
  await api.bind(target);
  return () => api.stop(0);
}

const goMissing = goProblem();

test('Go code that README.md has you generate compiles, and calls an agent', {
  ...needs('go', goMissing === '', goMissing),
  timeout: goColdMs,
}, async () => {
  await buildGoClients(folder);
  const target = `unix:${join(folder, 'sock')}`;
  const stop = await serve(target);
  const printed = await runIn(folder, join(folder, 'bin/caller'), target).finally(stop);
  expect(printed.trim().split('\n')).toEqual([
    'execute 1 ["a b"]',
    'submit 1 ["a b"]',
    'submit 1 gone, known true, begun false',
    'submit 1 gone, known false, begun false',
    'scale 0 POOL_STATE_DRAINING',
  ]);
});
