import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { parseDuration } from '../config/units.ts';
import { withAgent } from './connect.ts';
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
}

interface Response {
  readonly payload: Buffer;
  readonly content_type: string;
}

/** Calls one command: a text result is printed as it is, bytes too, everything else as JSON. */
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
  };
  await withAgent(options.socket, async (agent) => {
    const callOptions = timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
    if (options.stream !== true) {
      return show(await agent.call<Response>('Execution', 'Execute', request, callOptions), options);
    }
    for await (const response of agent.stream<Response>('Execution', 'ExecuteStream', request, callOptions)) {
      show(response, options);
    }
  });
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
