import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { expect, onTestFinished, test } from 'vitest';
import { connectAgent } from '../../src/cli/connect.ts';
import { services } from '../../src/grpc/proto.ts';

/** Starts an agent that answers every Execute. */
async function answering(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'pw-'));
  const path = join(folder, 'agent.sock');
  const server = new Server();
  server.addService(services.Execution, {
    Execute: (_: unknown, answer: (error: null, response: object) => void) => answer(null, { worker_id: 'w' }),
    ExecuteStream: (call: { write(response: object): void; end(): void }) => {
      call.write({ worker_id: 'w' });
      call.end();
    },
  });
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    ),
  );
  onTestFinished(() => {
    server.forceShutdown();
    rmSync(folder, { recursive: true });
  });
  return path;
}

test('a call that was cancelled before it began is not made', async () => {
  const agent = await connectAgent(await answering());
  onTestFinished(() => agent.close());
  await expect(agent.call('Execution', 'Execute', {})).resolves.toMatchObject({ worker_id: 'w' });
  const cancelled = AbortSignal.abort();
  await expect(agent.call('Execution', 'Execute', {}, {}, cancelled)).rejects.toThrow('CANCELLED');
  const stream = agent.stream('Execution', 'ExecuteStream', {}, {}, cancelled);
  await expect(stream[Symbol.asyncIterator]().next()).rejects.toThrow('CANCELLED');
});
