import type { ReportedProgress } from '../../domain/evidence.ts';

/** Reports of one request reach its caller no more often than this. */
const betweenMs = 100;

/** Of one request whose caller asked for reports of its progress. */
export interface ProgressRelay {
  report(progress: ReportedProgress): void;
  /** Nothing is written after this. */
  close(): void;
}

/**
 * Passes on the newest report: the next one is written when `betweenMs` are over and the caller's connection has taken the
 * one before, so that neither a busy command nor a slow caller makes reports pile up.
 */
export function createProgressRelay(write: (report: ReportedProgress, written: () => void) => void): ProgressRelay {
  let newest: ReportedProgress | null = null;
  let timer: NodeJS.Timeout | null = null;
  let isWriting = false;
  let isClosed = false;
  const flush = (): void => {
    if (newest === null || timer !== null || isWriting || isClosed) return;
    const report = newest;
    newest = null;
    isWriting = true;
    timer = setTimeout(() => {
      timer = null;
      flush();
    }, betweenMs).unref();
    write(report, () => {
      isWriting = false;
      flush();
    });
  };
  return {
    report: (progress) => {
      newest = progress;
      flush();
    },
    close: () => {
      isClosed = true;
      if (timer !== null) clearTimeout(timer);
    },
  };
}
