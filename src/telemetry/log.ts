import pino from 'pino';
import { printableEntry, printableJson } from '../domain/printable.ts';
import { withPriority } from '../os/output/journal.ts';
import { openLogOutput } from '../os/output/log-output.ts';

/** Structured log lines; fields are the words of the design (`worker_id`, `pool`, `reason`, …). */
export interface Log {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** No more lines: writes what is still held, as far as somebody reads it. True: a thread hangs in a write. */
  end(): Promise<boolean>;
  /** The same at once, for a process whose state cannot be trusted. */
  endNow(): boolean;
}

export type LogFields = Readonly<Record<string, unknown>>;

/** Held for a reader that is slow; beyond it lines are dropped, for a slow reader must not stop the agent. */
const heldMaxBytes = 8 * 1024 * 1024;

/** A reader that has stopped reading must not hold up the end. */
const lastWordsMs = 1_000;

export interface LogOptions {
  readonly level: string;
  readonly format: 'pretty' | 'json';
  /** Lines begin with their priority, such as `<4>`, which journald takes off and goes by: sd-daemon(3). */
  readonly priorities: boolean;
  /** Default: stdout. */
  readonly fd?: number;
}

/** syslog(3)'s priorities, by pino's levels. */
const priorities: Readonly<Record<string, number>> = { trace: 7, debug: 7, info: 6, warn: 4, error: 3, fatal: 2 };

export function createLog(options: LogOptions): Log {
  const out = openLogOutput(options.fd ?? 1, {
    heldMaxBytes,
    onDropped: (lines) => logger.warn({}, `${lines} log lines were dropped: they were written faster than read`),
  });
  const show = options.format === 'json' ? printableJson : pretty;
  const stream = { write: (line: string) => out.write(options.priorities ? prefixed(line, show(line)) : show(line)) };
  const logger = pino(
    {
      level: options.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    stream,
  );
  return {
    debug: (message, fields = {}) => logger.debug(fields, message),
    info: (message, fields = {}) => logger.info(fields, message),
    warn: (message, fields = {}) => logger.warn(fields, message),
    error: (message, fields = {}) => logger.error(fields, message),
    end: async () => (await out.end(lastWordsMs)) === 'stuck',
    endNow: () => out.endNow(lastWordsMs) === 'stuck',
  };
}

/** `12:34:56 warn  text-0-x7k2 | what it wrote`: the time and what happened; fields are for programs. */
function pretty(json: string): string {
  const line = JSON.parse(json) as { time: string; level: string; msg: string; stream?: string; worker_id?: string };
  const level = line.level === 'info' ? '' : `${line.level}: `;
  const subject = line.stream === undefined ? '' : `${line.worker_id} | `;
  return `${line.time.slice(11, 19)} ${printableEntry(`${level}${subject}${line.msg}`)}\n`;
}

function prefixed(json: string, shown: string): string {
  const level = /^\{"level":"(\w+)"/.exec(json)?.[1] ?? 'info';
  return withPriority(shown, priorities[level] ?? priorities['info'] ?? 6);
}
