import type { ReportSource } from '../../src/grpc/control/report-view.ts';

/** The part of a ControlSource that Report shows, of an agent without any requests or exits. */
export const noReport: ReportSource = {
  bootId: 'boot',
  loopLateMs: () => 0,
  workOf: () => ({ queuedMs: 0, runningMs: 0, capacity: 0, lastEvidenceAtMs: 0 }),
  exitCounts: () => new Map(),
};
