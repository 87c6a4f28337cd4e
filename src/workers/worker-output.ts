import type { OutputOptions } from '../os/output/output.ts';
import type { WorkerParts } from './parts.ts';

/** Writes a worker's output to the log. */
export function logOutput(
  { log, nowMs }: Pick<WorkerParts, 'log' | 'nowMs'>,
  workerId: string,
  pool: string,
): OutputOptions {
  const of = { pool, worker_id: workerId };
  return {
    nowMs,
    onLine: ({ text, stream, record }) => {
      if (record === null) return log.info(text, { ...of, stream });
      const { level, logger, requestId } = record;
      return log[level](text, { ...of, stream, logger, ...(requestId === '' ? {} : { request_id: requestId }) });
    },
    onDropped: (count) =>
      log.warn(`${workerId}: ${count} lines of output were dropped: the worker exceeded the rate limit`, of),
    onSkipped: (bytes) =>
      log.warn(
        `${workerId}: ${bytes} bytes of output were skipped: they were written faster than they could be read`,
        of,
      ),
  };
}
