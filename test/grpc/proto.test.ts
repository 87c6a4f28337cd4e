import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { sendUnaryData } from '@grpc/grpc-js';
import { credentials } from '@grpc/grpc-js';
import { afterEach, expect, test } from 'vitest';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { clients, services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';

interface Message {
  readonly payload: Buffer;
}

let stop: (() => Promise<void>) | undefined;

afterEach(() => stop?.());

test('answers that are encoded into the same Buffer in one turn arrive unchanged, however large', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pitwarden-proto-'));
  const api: ApiServer = createServer({ messageMaxBytes: 64 * 1024 * 1024, budget: createMemoryBudget(2 ** 30) });
  const waiting: (() => void)[] = [];
  const sizes = [0, 1, 100, 5_000, 70_000, 300_000, 1_000_000, 3_000_000];
  api.server.addService(services.Execution, {
    // All are answered in one turn of the event loop, long before the first answer has been sent.
    Execute: ({ request }: { request: Message }, callback: sendUnaryData<object>) => {
      waiting.push(() => callback(null, { payload: request.payload }));
      if (waiting.length === sizes.length) for (const answer of waiting) answer();
    },
    ExecuteStream: () => undefined,
    Submit: () => undefined,
  });
  const target = `unix:${join(folder, 'sock')}`;
  await api.bind(target);
  const client = new clients.Execution(target, credentials.createInsecure());
  stop = async () => {
    client.close();
    await api.stop(0);
    rmSync(folder, { recursive: true });
  };
  const call = (payload: Buffer) =>
    new Promise<Message>((resolve, reject) => {
      const execute = client['Execute']?.bind(client) as (
        request: object,
        done: (error: Error | null, answer: Message) => void,
      ) => void;
      execute({ pool: 'p', command: 'c', payload }, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  const payloads = sizes.map((size, index) => Buffer.alloc(size, index + 1));
  const answers = await Promise.all(payloads.map(call));
  answers.forEach((answer, index) => {
    expect(answer.payload.equals(payloads[index] ?? Buffer.alloc(0)), `of ${sizes[index]} bytes`).toBe(true);
  });
});
