import { Client, credentials } from '@grpc/grpc-js';
import type { BenchAgent } from '../agent.ts';
import { ExecuteResponse, encodeAsk, executePath } from '../messages.ts';
import type { AskPid } from './recovery.ts';
import { pidIn } from './recovery.ts';

/** Asks for the worker's pid over a connection that stays. */
export function grpcAsker(agent: BenchAgent, pool: string): { readonly ask: AskPid; close(): void } {
  const client = new Client(`unix:${agent.socket}`, credentials.createInsecure());
  const body = encodeAsk({ pool, command: 'pid', payloadBytes: 1 });
  const ask: AskPid = (withinMs) =>
    new Promise((resolve) => {
      client.makeUnaryRequest(
        executePath,
        (message: Buffer) => message,
        (answer) => ExecuteResponse.decode(answer) as unknown as { payload: Uint8Array },
        body,
        { deadline: Date.now() + withinMs },
        (error, answer) => resolve(error === null ? pidIn(Buffer.from(answer?.payload ?? [])) : undefined),
      );
    });
  return { ask, close: () => client.close() };
}
