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
}

/** Without a deadline an agent that went away is waited for this long. */
const waitsForAgentMs = 60_000;
const repeatEveryMs = 100;

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
  await withAgent(options.socket, async (agent) => {
    const callOptions = timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
    let shown = 0;
    await untilAnswered(timeoutMs ?? waitsForAgentMs, async () => {
      if (options.stream !== true) {
        return show(await agent.call<Response>('Execution', 'Execute', request, callOptions), options);
      }
      // Asked again, the agent begins with the first value.
      let seen = 0;
      for await (const response of agent.stream<Response>('Execution', 'ExecuteStream', request, callOptions)) {
        seen += 1;
        if (seen <= shown) continue;
        shown = seen;
        show(response, options);
      }
    });
  });
}

/** Asks until somebody answers: a connection that broke says nothing of what became of the request. */
async function untilAnswered(forMs: number, ask: () => Promise<void>): Promise<void> {
  const endsAtMs = performance.now() + forMs;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof ConnectionLost) || performance.now() >= endsAtMs) throw error;
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
