import type { WorkerFrame, WorkerHello } from './worker-link.ts';

/**
 * What a worker says is checked here, as what a stranger says is: a worker runs its users' code. Callers, views, logs and
 * metrics get no code, content type or text that is not one of those they expect, or is longer than they expect.
 */

const commandNameMaxBytes = 200;
const versionMaxLength = 64;
const errorMaxBytes = { type: 256, message: 16 * 1024, traceback: 16 * 1024 } as const;
/** google.rpc.Code: UNKNOWN, and the last there is. 0 would be a success without an answer. */
const [unknown, lastCode] = [2, 16];
const contentTypes: readonly string[] = ['', 'application/json', 'application/octet-stream'];
const bytesType = 'application/octet-stream';
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it looks for.
const controls = /[\u0000-\u001f\u007f-\u009f]/g;

type Writable<T> = { -readonly [key in keyof T]: T[key] };

/** What is wrong with a hello that cannot be mended; undefined: it was made fit to be shown. */
export function checkHello(hello: Writable<WorkerHello>): string | undefined {
  for (const { name } of hello.commands) {
    const bytes = Buffer.byteLength(name);
    if (bytes === 0 || bytes > commandNameMaxBytes || name.search(controls) >= 0) {
      const expected = `expected names of 1 to ${commandNameMaxBytes} bytes without control characters`;
      return `commands: ${expected}, got ${JSON.stringify(name.slice(0, 40))} (${bytes} bytes)`;
    }
  }
  for (const version of ['sdk_version', 'python_version'] as const) {
    hello[version] = hello[version].replace(controls, '').slice(0, versionMaxLength);
  }
  return undefined;
}

/** Makes codes, content types and texts of a frame such as callers may get. */
export function mendFrame({ chunks, results }: WorkerFrame): void {
  for (const chunk of chunks) mendContentType(chunk);
  for (const result of results) {
    mendContentType(result);
    if (result.error !== null) mendError(result.error);
  }
}

/** Bytes of a type that nobody knows are bytes. */
function mendContentType(answer: Writable<{ content_type: string }>): void {
  if (!contentTypes.includes(answer.content_type)) answer.content_type = bytesType;
}

function mendError(error: { code: number; type: string; message: string; traceback: string }): void {
  if (error.code < 1 || error.code > lastCode) error.code = unknown;
  for (const field of ['type', 'message'] as const) error[field] = cutBytes(error[field], errorMaxBytes[field]);
  // Its end says what happened.
  error.traceback = cutBytes(error.traceback, errorMaxBytes.traceback, 'end');
}

/** A text of at most so many bytes of UTF-8; what was cut away is shown by an ellipsis. */
export function cutBytes(text: string, maxBytes: number, keep: 'start' | 'end' = 'start'): string {
  if (text.length * 3 <= maxBytes) return text;
  const bytes = Buffer.from(text);
  if (bytes.length <= maxBytes) return text;
  // A character that the cut went through becomes a replacement character, and is dropped.
  const kept = keep === 'start' ? bytes.subarray(0, maxBytes) : bytes.subarray(bytes.length - maxBytes);
  const readable = kept.toString('utf8').replace(keep === 'start' ? /\uFFFD+$/ : /^\uFFFD+/, '');
  return keep === 'start' ? `${readable}…` : `…${readable}`;
}
