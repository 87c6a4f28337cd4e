import { Client, credentials } from '@grpc/grpc-js';
import type { BenchAgent } from '../agent.ts';
import { ExecuteResponse, encodeAsk, executePath } from '../messages.ts';
import { pause } from '../processes.ts';
import type { Measured } from '../statistics.ts';

const tryMs = 1_000;
const giveUpMs = 30_000;

/** Kills a process and measures until the next good answer; `none` when there is none in time. */
export async function recovery(pid: number, ask: (withinMs: number) => Promise<boolean>): Promise<Measured> {
  process.kill(pid, 'SIGKILL');
  const killedAtMs = performance.now();
  while (performance.now() - killedAtMs < giveUpMs) {
    if (await ask(tryMs)) return { ms: performance.now() - killedAtMs };
    await pause(1);
  }
  return { none: 1 };
}

/** Asks for an echo of one byte over a connection that stays. */
export function grpcAsker(agent: BenchAgent, pool: string) {
  const client = new Client(`unix:${agent.socket}`, credentials.createInsecure());
  const body = encodeAsk({ pool, command: 'echo', payloadBytes: 1 });
  const ask = (withinMs: number): Promise<boolean> =>
    new Promise((resolve) => {
      client.makeUnaryRequest(
        executePath,
        (message: Buffer) => message,
        (answer) => ExecuteResponse.decode(answer) as unknown as { payload: Uint8Array },
        body,
        { deadline: Date.now() + withinMs },
        (error, answer) => resolve(error === null && answer?.payload.length === 1),
      );
    });
  return { ask, close: () => client.close() };
}
