import pino from 'pino';
import { printableEntry, printableJson } from '../domain/printable.ts';
import { withPriority } from '../os/output/journal.ts';
import { openLogOutput } from '../os/output/log-output.ts';

/** Structured log lines. The names of the fields are those used elsewhere (`worker_id`, `pool`, `reason`, …). */
export interface Log {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /**
   * Stops logging and writes what is still buffered, as far as it is read. Returns true if a thread hangs in a write.
   */
  end(): Promise<boolean>;
  /** Synchronous version of `end`, for a process whose state can no longer be trusted. */
  endNow(): boolean;
}

export type LogFields = Readonly<Record<string, unknown>>;

/** Buffer for a slow reader. Lines beyond it are dropped, because a slow reader must not stop the agent. */
const heldMaxBytes = 8 * 1024 * 1024;

/** How long a blocked reader may delay the end of the process. */
const lastWordsMs = 1_000;

export interface LogOptions {
  readonly level: string;
  readonly format: 'pretty' | 'json';
  /** Prefix each line with its priority, such as `<4>`, which journald removes and uses: sd-daemon(3). */
  readonly priorities: boolean;
  /** Default: stdout. */
  readonly fd?: number;
}

/** Priorities of syslog(3) by pino's levels. */
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

/** `12:34:56 warn: text-0-x7k2 | OUTPUT`: the time and what happened, without the fields, which are for programs. */
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
