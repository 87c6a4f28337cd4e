import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { buffer } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { parseDuration } from '../config/units.ts';
import { ConnectionLost, withAgent } from './connect.ts';
import { CliError, exitCode } from './exit.ts';
import { layOut } from './json-layout.ts';
import { printBytes, printForeignJson, printNote, printText } from './print.ts';
import { progressWords } from './progress.ts';

export interface CallCommandOptions {
  readonly socket?: string;
  readonly args?: string;
  readonly file?: string;
  readonly stdin?: boolean;
  readonly bytes?: boolean;
  readonly stream?: boolean;
  readonly progress?: boolean;
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
  /** If set, this is no result but a progress report. */
  readonly progress: { readonly fraction: number; readonly message: string } | null;
}

/** How long a call without a deadline waits for an agent that has gone. */
const waitsForAgentMs = 60_000;
const repeatEveryMs = 100;
/** An attempt that took this long had reached an agent. */
const connectedMs = 2_000;

/**
 * Calls one command. If the agent goes away meanwhile, the call is repeated with the same id. Prints a text result and
 * bytes as they are, and everything else as JSON.
 */
export async function call(pool: string, command: string, options: CallCommandOptions): Promise<void> {
  const content = await contentOf(options);
  const timeoutMs = timeoutOf(options.timeout);
  const request = {
    pool,
    command,
    ...content,
    idempotent: options.idempotent === true,
    session_id: options.session ?? '',
    request_id: options.requestId ?? randomUUID(),
    progress: options.progress === true,
  };
  const leaving = cancelOnSignal();
  await withAgent(options.socket, async (agent) => {
    const callOptions = timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
    const shown = { count: 0, workerId: '' };
    await untilAnswered(timeoutMs ?? waitsForAgentMs, leaving, async () => {
      if (options.stream !== true && options.progress !== true) {
        return show(await agent.call<Response>('Execution', 'Execute', request, callOptions, leaving), options);
      }
      // When asked again, the agent sends the stream from its first value.
      let seen = 0;
      for await (const response of agent.stream<Response>(
        'Execution',
        'ExecuteStream',
        request,
        callOptions,
        leaving,
      )) {
        if (response.progress !== null) {
          showProgress(response.progress);
          continue;
        }
        seen += 1;
        if (seen <= shown.count) {
          const isOther = response.worker_id !== shown.workerId && options.idempotent !== true;
          if (isOther) throw new CliError(exitCode.failed, anotherRun, { status: 'DATA_LOSS' });
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
  'DATA_LOSS: the stream was lost with its worker, and another worker began it again: the values shown before belong to the lost stream';

/**
 * Cancels the request on a signal. If the process just ended, the agent would see a lost connection and let the request
 * continue.
 */
function cancelOnSignal(): AbortSignal {
  const abort = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => abort.abort());
  return abort.signal;
}

/** Repeats the call until it is answered: a lost connection does not say what happened to the request. */
async function untilAnswered(forMs: number, leaving: AbortSignal, ask: () => Promise<void>): Promise<void> {
  let lostAtMs: number | null = null;
  for (;;) {
    if (leaving.aborted) throw cancelled();
    const askedAtMs = performance.now();
    try {
      return await ask();
    } catch (error) {
      if (leaving.aborted) throw cancelled();
      const nowMs = performance.now();
      // A longer attempt was connected, so the wait for an agent starts at its loss.
      if (lostAtMs === null || nowMs - askedAtMs > connectedMs) lostAtMs = nowMs;
      if (!(error instanceof ConnectionLost) || nowMs >= lostAtMs + forMs) throw error;
    }
    await delay(repeatEveryMs, undefined, { signal: leaving }).catch(() => undefined);
  }
}

function cancelled(): CliError {
  return new CliError(exitCode.interrupted, 'cancelled');
}

/** The payload of the call. */
interface Content {
  readonly payload: Buffer;
  readonly content_type: 'application/json' | 'application/octet-stream';
}

async function contentOf({ args, file, stdin, bytes }: CallCommandOptions): Promise<Content> {
  if ([args !== undefined, file !== undefined, stdin === true].filter(Boolean).length > 1) {
    throw new CliError(exitCode.usage, 'expected one of --args, --file and --stdin, got several');
  }
  const source = file !== undefined ? '--file' : '--stdin';
  const read = file !== undefined ? readBytes(file) : stdin === true ? await buffer(process.stdin) : undefined;
  if (bytes === true) {
    if (read === undefined) throw new CliError(exitCode.usage, '--bytes: expected --file or --stdin beside it');
    return { payload: read, content_type: 'application/octet-stream' };
  }
  if (read !== undefined) return json(JSON.stringify([decodeText(source, read)]));
  return json(args === undefined ? '' : checkJson(args));
}

function json(text: string): Content {
  return { payload: Buffer.from(text), content_type: 'application/json' };
}

function readBytes(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new CliError(exitCode.usage, `--file: ${(error as Error).message}`);
  }
}

/** Refuses text that is not UTF-8: replacement characters would change it. */
function decodeText(source: string, bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new CliError(
      exitCode.usage,
      `${source}: expected UTF-8 text, got other bytes; --bytes sends them as they are`,
    );
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

function showProgress({ fraction, message }: { readonly fraction: number; readonly message: string }): void {
  const words = progressWords(fraction, message);
  if (words !== '') printNote(`progress: ${words}`);
}

function show({ payload, content_type }: Response, { json, stream }: CallCommandOptions): void {
  if (content_type !== 'application/json') return printBytes(payload);
  const body = payload.toString('utf8');
  if (json === true) return printForeignJson(body);
  const text = textOf(body);
  if (text !== undefined) return printText(text);
  printForeignJson(stream === true ? body : layOut(body));
}

/** The text, if the JSON is a string; otherwise undefined. */
function textOf(body: string): string | undefined {
  if (!/^\s*"/.test(body)) return undefined;
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === 'string' ? value : undefined;
  } catch {
    return undefined;
  }
}
