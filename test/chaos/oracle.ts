import type { ChaosExit } from './agent.ts';
import type { Fate, Load } from './load.ts';

/** What was done to one worker that may end it: SIGKILL, SIGSTOP, a leak, the GIL held. */
export type Harm = 'kill' | 'freeze' | 'leak' | 'hold';

/** Ends that each harm explains. */
const explained: Readonly<Record<Harm, readonly string[]>> = {
  kill: ['signal'],
  freeze: ['hung', 'overdue', 'link_lost', 'start_timeout'],
  leak: ['memory_hard'],
  hold: ['hung', 'overdue'],
};
const code = { cancelled: 1, unknown: 2, deadlineExceeded: 4, resourceExhausted: 8, unavailable: 14 } as const;

export interface ChaosVerdict {
  readonly violations: readonly string[];
  /** Requests lost to the death of the very worker that had them, by its exit's reason. */
  readonly lost: ReadonlyMap<string, number>;
  /** Errors that were asked for, by purpose. */
  readonly asked: ReadonlyMap<string, number>;
}

/**
 * Whether every request's fate is explained. One that was lost must name a worker that ended, with the reason that its exit
 * record has; that worker must have been harmed, and in a way that explains this end, if the end was unplanned.
 */
export function judge(
  load: Load,
  exits: ReadonlyMap<string, ChaosExit>,
  harmed: ReadonlyMap<string, ReadonlySet<Harm>>,
  runs: readonly string[],
): ChaosVerdict {
  const violations = [...load.violations];
  const lost = new Map<string, number>();
  const asked = new Map<string, number>();
  for (const fate of load.errors) {
    if (isAsked(fate)) countOne(asked, fate.purpose);
    else if (fate.error?.code === code.unavailable && fate.error.exit_reason !== '') {
      countOne(lost, fate.error.exit_reason);
      const wrong = whyUnexplained(fate, exits, harmed);
      if (wrong !== undefined) violations.push(`request ${fate.requestId} (${fate.purpose}) was lost: ${wrong}`);
    } else {
      const { code: got, message } = fate.error ?? { code: 0, message: '' };
      violations.push(`request ${fate.requestId} (${fate.purpose}): expected an answer, got ${got}: ${message}`);
    }
  }
  for (const exit of exits.values()) {
    if (exit.unplanned && !isExplained(exit, harmed)) {
      violations.push(`worker ${exit.worker_id} ended (${exit.reason}): expected it to live, for nothing harmed it`);
    }
  }
  violations.push(...runsTooMany(load, runs));
  return { violations, lost, asked };
}

function isAsked({ purpose, error }: Fate): boolean {
  if (purpose === 'raises') return error?.code === code.unknown && error.message === 'as asked';
  // By the pool's pace its turn may come too late, which it is told at once.
  if (purpose === 'late') return error?.code === code.deadlineExceeded || error?.code === code.resourceExhausted;
  return purpose === 'cancelled' && error?.code === code.cancelled;
}

function whyUnexplained(
  { error }: Fate,
  exits: ReadonlyMap<string, ChaosExit>,
  harmed: ReadonlyMap<string, ReadonlySet<Harm>>,
): string | undefined {
  const exit = exits.get(error?.worker_id ?? '');
  if (exit === undefined) return `its worker "${error?.worker_id}" has no exit record`;
  const { reason } = exit;
  if (reason !== error?.exit_reason) return `the error says ${error?.exit_reason}, the exit record ${reason}`;
  if (!harmed.has(exit.worker_id)) return `nothing harmed ${exit.worker_id}, which ended (${reason}): it was planned`;
  // One that was on its way out anyway is lost with its request only when it is killed: else it would have ended that first.
  if (!exit.unplanned && exit.signal !== 'SIGKILL') return `${exit.worker_id} left (${reason}) and was not killed`;
  return undefined;
}

function isExplained(exit: ChaosExit, harmed: ReadonlyMap<string, ReadonlySet<Harm>>): boolean {
  for (const harm of harmed.get(exit.worker_id) ?? []) if (explained[harm].includes(exit.reason)) return true;
  return false;
}

/** The commands' own records show how often a request ran, whatever its caller was told. */
function runsTooMany(load: Load, runs: readonly string[]): string[] {
  const wrong: string[] = [];
  const times = new Map<string, number>();
  for (const requestId of runs) countOne(times, requestId);
  for (const [requestId, ran] of times) {
    if (ran > 1 && load.atMostOnce.has(requestId)) {
      wrong.push(`request ${requestId}: expected at most one run, got ${ran}`);
    }
  }
  for (const requestId of load.once) {
    if (!times.has(requestId)) wrong.push(`request ${requestId}: expected a run, for it was answered, got none`);
  }
  return wrong;
}

export function countOne(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}
