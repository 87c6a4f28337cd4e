import { mkdtempSync, rmSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { connect as dial } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import { expect, onTestFinished, test, vi } from 'vitest';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import { createServer } from '../../src/grpc/server.ts';

const daySeconds = 86_400;

test.each<[string, number]>([
  ['500H', 500 * 3_600],
  ['596H', 596 * 3_600],
  ['597H', 24.85 * daySeconds],
  ['8760H', 24.85 * daySeconds],
  ['99999999H', 24.85 * daySeconds],
  ['99999999M', 24.85 * daySeconds],
  ['99999999S', 24.85 * daySeconds],
  ['99999999m', 99_999.999],
])('a call with the timeout %s has a deadline in %d seconds', async (timeout, seconds) => {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  const path = join(dir, 'sock');
  let leftMs = 0;
  const api = createServer({ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20) });
  api.server.addService(services.Execution, {
    Execute: (call: ServerUnaryCall<object, object>, done: sendUnaryData<object>) => {
      leftMs = Number(call.getDeadline()) - Date.now();
      done(null, {});
    },
    ExecuteStream: () => undefined,
    Submit: () => undefined,
  });
  await api.bind(`unix:${path}`);
  const session = connectHttp2('http://localhost', { createConnection: () => dial(path) });
  onTestFinished(async () => {
    session.destroy();
    await api.stop(0);
    rmSync(dir, { recursive: true });
  });
  const usual = { ':method': 'POST', ':path': '/pitwarden.v1.Execution/Execute', 'content-type': 'application/grpc' };
  const stream = session.request({ ...usual, 'grpc-timeout': timeout });
  stream.resume();
  stream.end(Buffer.alloc(5));
  await vi.waitFor(() => expect(leftMs).not.toBe(0));
  expect(Math.abs(leftMs / 1_000 - seconds)).toBeLessThan(500);
});
