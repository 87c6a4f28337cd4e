import type { ReportedProgress } from '../../domain/evidence.ts';

/** The least time between two reports of one request. */
const betweenMs = 100;

/** Passes reports of one request's progress to the caller, who asked for them. */
export interface ProgressRelay {
  report(progress: ReportedProgress): void;
  /** Writes nothing from now on. */
  close(): void;
}

/**
 * Keeps only the newest report. It is written when `betweenMs` are over and the caller's connection has taken the last one, so
 * reports pile up neither behind a busy command nor before a slow caller.
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
