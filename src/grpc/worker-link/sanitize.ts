import type { HeldRequest } from '../../dispatch/worker.ts';
import { printableLine } from '../../domain/printable.ts';
import {
  commandNameMaxBytes,
  commandSummaryMaxLength,
  commandsMax,
  errorMessageMaxBytes,
  errorTypeMaxBytes,
  leavingReasonMaxLength,
  progressMessageMaxLength,
  requestIdMaxBytes,
  tracebackMaxBytes,
  versionMaxLength,
} from '../../domain/text-bounds.ts';
import { cutBytes, cutLength } from '../cut-text.ts';
import type { WorkerFrame, WorkerHello } from './source.ts';

/**
 * Checks everything that workers send. Workers are not trusted, because they run users' code. Callers, views, logs and metrics
 * get only the codes, content types, numbers and lengths of text that they expect. Control characters of texts become visible
 * escapes such as `\x1b`. Only messages and tracebacks of errors stay as the command wrote them: they are meant for its caller
 * alone, as execution.proto says. Views and logs escape these too.
 */

/** Codes of google.rpc.Code: UNKNOWN, and the last one. An error with code 0 would be a success without an answer. */
const [unknown, lastCode] = [2, 16];
const contentTypes: readonly string[] = ['', 'application/json', 'application/octet-stream'];
const bytesType = 'application/octet-stream';

type Writable<T> = { -readonly [key in keyof T]: T[key] };

/** Mends a hello's texts and numbers. Returns what is wrong with a hello that cannot be mended; undefined: it can be used. */
export function checkHello(hello: Writable<WorkerHello>): string | undefined {
  const { commands, resumed } = hello;
  if (commands.length > commandsMax) return `commands: expected at most ${commandsMax}, got ${commands.length}`;
  for (const command of commands as Writable<WorkerHello['commands'][number]>[]) {
    const bytes = Buffer.byteLength(command.name);
    if (bytes === 0 || bytes > commandNameMaxBytes || printableLine(command.name) !== command.name) {
      const expected = `expected names of 1 to ${commandNameMaxBytes} bytes without control characters`;
      return `commands: ${expected}, got ${JSON.stringify(command.name.slice(0, 40))} (${bytes} bytes)`;
    }
    command.summary = shortLine(command.summary, commandSummaryMaxLength);
  }
  hello.sdk_version = shortLine(hello.sdk_version, versionMaxLength);
  hello.python_version = shortLine(hello.python_version, versionMaxLength);
  return resumed === null ? undefined : checkResumed(resumed);
}

function checkResumed(resumed: Writable<NonNullable<WorkerHello['resumed']>>): string | undefined {
  resumed.completed = whole(resumed.completed);
  resumed.failed = whole(resumed.failed);
  for (const { request_id, command } of resumed.held) {
    if (isWithin(request_id, requestIdMaxBytes) && isWithin(command, commandNameMaxBytes)) continue;
    const most = `at most ${requestIdMaxBytes} bytes and commands of at most ${commandNameMaxBytes}`;
    return `held: expected request_ids of ${most}, got ${request_id.length} and ${command.length} characters`;
  }
  return undefined;
}

/** Bounds the ages of a worker's requests and the steps of its start by the worker's own age. */
export function boundByLife(hello: Writable<WorkerHello>, lifeMs: number): void {
  const most = Math.max(0, Math.round(lifeMs));
  for (const step of ['interpreter_ms', 'import_ms', 'hooks_ms'] as const) hello[step] = Math.min(hello[step], most);
  for (const held of hello.resumed?.held ?? []) (held as Writable<HeldRequest>).age_ms = Math.min(held.age_ms, most);
}

/** Replaces codes, content types, numbers and texts of a frame that others must not get. */
export function mendFrame(frame: Writable<WorkerFrame>): void {
  for (const chunk of frame.chunks) mendContentType(chunk);
  for (const result of frame.results) {
    mendContentType(result);
    if (result.error !== null) mendError(result.error);
  }
  for (const report of frame.progress as Writable<WorkerFrame['progress'][number]>[]) {
    report.fraction = Number.isFinite(report.fraction) ? Math.max(-1, Math.min(1, report.fraction)) : -1;
    report.message = shortLine(report.message, progressMessageMaxLength);
  }
  if (frame.leaving_reason !== '') frame.leaving_reason = shortLine(frame.leaving_reason, leavingReasonMaxLength);
}

/** An unknown content type becomes that of plain bytes. */
function mendContentType(answer: Writable<{ content_type: string }>): void {
  if (!contentTypes.includes(answer.content_type)) answer.content_type = bytesType;
}

function mendError(error: { code: number; type: string; message: string; traceback: string }): void {
  if (error.code < 1 || error.code > lastCode) error.code = unknown;
  error.type = cutBytes(printableLine(cutBytes(error.type, errorTypeMaxBytes)), errorTypeMaxBytes);
  error.message = cutBytes(error.message, errorMessageMaxBytes);
  // The end of a traceback says what happened.
  error.traceback = cutBytes(error.traceback, tracebackMaxBytes, 'end');
}

/** Makes one line without control characters. Cuts before, as a text may be as long as a frame, and after: escapes are longer. */
function shortLine(text: string, maxLength: number): string {
  return cutLength(printableLine(cutLength(text, maxLength)), maxLength);
}

function isWithin(text: string, maxBytes: number): boolean {
  return text.length * 3 <= maxBytes || Buffer.byteLength(text) <= maxBytes;
}

/** Counts are 64 bits wide. protobufjs gives them as objects, and JavaScript is exact up to 2^53 - 1. */
export function whole(value: number | { toNumber(): number }): number {
  return Math.min(typeof value === 'number' ? value : value.toNumber(), Number.MAX_SAFE_INTEGER);
}
