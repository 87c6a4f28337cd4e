import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { parseDuration } from '../config/units.ts';
import { ConnectionLost, withAgent } from './connect.ts';
import { CliError, exitCode } from './exit.ts';
import { print } from './print.ts';

export interface CallCommandOptions {
  readonly socket?: string;
  readonly args?: string;
  readonly file?: string;
  readonly stdin?: boolean;
  readonly stream?: boolean;
  readonly timeout?: string;
  readonly json?: boolean;
  readonly idempotent?: boolean;
  readonly session?: string;
  readonly requestId?: string;
}

interface Response {
  readonly payload: Buffer;
  readonly content_type: string;
  readonly worker_id: string;
}

/** Without a deadline an agent that went away is waited for this long. */
const waitsForAgentMs = 60_000;
const repeatEveryMs = 100;
/** An attempt that lasted so long had reached an agent. */
const connectedMs = 2_000;

/** Calls one command, again by the same id when the agent went away meanwhile: a text result is printed as it is, bytes too, everything else as JSON. */
export async function call(pool: string, command: string, options: CallCommandOptions): Promise<void> {
  const payload = await payloadOf(options);
  const timeoutMs = timeoutOf(options.timeout);
  const request = {
    pool,
    command,
    payload,
    content_type: 'application/json',
    idempotent: options.idempotent === true,
    session_id: options.session ?? '',
    request_id: options.requestId ?? randomUUID(),
  };
  const leaving = cancelOnSignal();
  await withAgent(options.socket, async (agent) => {
    const callOptions = timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
    const shown = { count: 0, workerId: '' };
    await untilAnswered(timeoutMs ?? waitsForAgentMs, leaving, async () => {
      if (options.stream !== true) {
        return show(await agent.call<Response>('Execution', 'Execute', request, callOptions, leaving), options);
      }
      // Asked again, the agent begins with the first value.
      let seen = 0;
      for await (const response of agent.stream<Response>(
        'Execution',
        'ExecuteStream',
        request,
        callOptions,
        leaving,
      )) {
        seen += 1;
        if (seen <= shown.count) {
          const isOther = response.worker_id !== shown.workerId && options.idempotent !== true;
          if (isOther) throw new CliError(exitCode.failed, anotherRun);
          continue;
        }
        shown.count = seen;
        shown.workerId = response.worker_id;
        show(response, options);
      }
    });
  });
}

const anotherRun =
  'DATA_LOSS: the stream was lost with its worker, and another one began it anew: what was shown is not its beginning';

/** A process that just ends looks like a connection that broke: the request would go on. */
function cancelOnSignal(): AbortSignal {
  const abort = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => abort.abort());
  return abort.signal;
}

/** Asks until somebody answers: a connection that broke says nothing of what became of the request. */
async function untilAnswered(forMs: number, leaving: AbortSignal, ask: () => Promise<void>): Promise<void> {
  let lostAtMs: number | null = null;
  for (;;) {
    const askedAtMs = performance.now();
    try {
      return await ask();
    } catch (error) {
      if (leaving.aborted) throw new CliError(exitCode.interrupted, 'cancelled');
      const nowMs = performance.now();
      // One that lasted was a connection: from its loss on an agent is waited for.
      if (lostAtMs === null || nowMs - askedAtMs > connectedMs) lostAtMs = nowMs;
      if (!(error instanceof ConnectionLost) || nowMs >= lostAtMs + forMs) throw error;
    }
    await delay(repeatEveryMs);
  }
}

async function payloadOf(options: CallCommandOptions): Promise<Buffer> {
  const given = [options.args !== undefined, options.file !== undefined, options.stdin === true];
  if (given.filter(Boolean).length > 1) {
    throw new CliError(exitCode.usage, 'expected one of --args, --file and --stdin, got several');
  }
  if (options.file !== undefined) return Buffer.from(JSON.stringify([readText(options.file)]));
  if (options.stdin === true) return Buffer.from(JSON.stringify([await text(process.stdin)]));
  return options.args === undefined ? Buffer.alloc(0) : Buffer.from(checkJson(options.args));
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new CliError(exitCode.usage, `--file: ${(error as Error).message}`);
  }
}

function checkJson(args: string): string {
  const wanted = '--args: expected a JSON object (keyword arguments) or array (positional ones)';
  let value: unknown;
  try {
    value = JSON.parse(args);
  } catch (error) {
    throw new CliError(exitCode.usage, `${wanted}, got ${JSON.stringify(args)}: ${(error as Error).message}`);
  }
  if (typeof value !== 'object' || value === null) throw new CliError(exitCode.usage, `${wanted}, got ${args}`);
  return args;
}

function timeoutOf(flag: string | undefined): number | undefined {
  if (flag === undefined) return undefined;
  const parsed = parseDuration(flag);
  if (!parsed.ok) throw new CliError(exitCode.usage, `--timeout: ${parsed.message}`);
  return parsed.value;
}

function show({ payload, content_type }: Response, { json, stream }: CallCommandOptions): void {
  if (content_type !== 'application/json') {
    process.stdout.write(payload);
    return;
  }
  const body = payload.toString('utf8');
  if (json === true) return print(body);
  const value: unknown = JSON.parse(body);
  if (typeof value === 'string') return print(value);
  print(stream === true ? body : JSON.stringify(value, null, 2));
}
