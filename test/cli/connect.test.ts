import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials, status } from '@grpc/grpc-js';
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

/** Starts an agent whose sockets answer every change with their names; `agent.sock` refuses it, unless it is of an earlier version. */
async function commanded(names: readonly string[], refuses: boolean, folder = mkdtempSync(join(tmpdir(), 'pw-'))) {
  for (const name of names) {
    const server = new Server();
    const answer = (_: unknown, done: (error: object | null, response?: object) => void): void => {
      if (refuses && name === 'agent.sock') done({ code: status.PERMISSION_DENIED, details: 'use control.sock' });
      else done(null, { pool: name });
    };
    const read = (_: unknown, done: (error: null, response: object) => void): void => done(null, { node_id: name });
    server.addService(services.Control, { ScalePool: answer, GetNode: read });
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(`unix:${join(folder, name)}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      ),
    );
    onTestFinished(() => server.forceShutdown());
  }
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The sockets that served a read and a change. */
async function servedAt(socket: string): Promise<unknown[]> {
  const agent = await connectAgent(socket);
  onTestFinished(() => agent.close());
  const { node_id } = await agent.call<{ node_id: string }>('Control', 'GetNode', {});
  return [node_id, (await agent.call<{ pool: string }>('Control', 'ScalePool', {})).pool];
}

test('what reads goes to agent.sock and what changes to control.sock, whether the folder or a socket is named', async () => {
  const folder = await commanded(['agent.sock', 'control.sock'], true);
  expect(await servedAt(folder)).toEqual(['agent.sock', 'control.sock']);
  expect(await servedAt(join(folder, 'agent.sock'))).toEqual(['agent.sock', 'control.sock']);
  expect(await servedAt(`unix:${join(folder, 'agent.sock')}`)).toEqual(['agent.sock', 'control.sock']);
  expect(await servedAt(join(folder, 'control.sock'))).toEqual(['control.sock', 'control.sock']);
});

test('an agent of a version without control.sock is commanded at agent.sock', async () => {
  expect(await servedAt(await commanded(['agent.sock'], false))).toEqual(['agent.sock', 'agent.sock']);
});

test('a change that agent.sock refuses goes to the control.sock that has appeared meanwhile', async () => {
  const folder = await commanded(['agent.sock'], true);
  const agent = await connectAgent(folder);
  onTestFinished(() => agent.close());
  await expect(agent.call('Control', 'ScalePool', {})).rejects.toThrow('PERMISSION_DENIED: use control.sock');
  await commanded(['control.sock'], true, folder);
  expect(await agent.call('Control', 'ScalePool', {})).toMatchObject({ pool: 'control.sock' });
});

test('a control.sock that others could write to is not dialled, and the change is not made elsewhere', async () => {
  const folder = await commanded(['agent.sock', 'control.sock'], false);
  chmodSync(folder, 0o755);
  chmodSync(join(folder, 'control.sock'), 0o666);
  chmodSync(join(folder, 'agent.sock'), 0o600);
  const agent = await connectAgent(folder);
  onTestFinished(() => agent.close());
  await expect(agent.call('Control', 'ScalePool', {})).rejects.toThrow(
    /control\.sock: expected a socket that other users may not write to, got mode 0666/,
  );
});
