import type { Event } from '../domain/event.ts';
import type { LinkRefusal, RefusalReason } from '../grpc/worker-link/source.ts';

/** A process that keeps dialling must not fill the log and the event stream. */
const recordEveryMs = 1_000;

interface Reporting {
  nowMs(): number;
  count(reason: RefusalReason): void;
  report(event: Event): void;
}

/** Reports refused hellos: counts each, and logs and publishes at most one per second and reason. */
export function reportRefusals({ nowMs, count, report }: Reporting): (refusal: LinkRefusal) => void {
  const silent = new Map<RefusalReason, { untilMs: number; skipped: number }>();
  return ({ reason, message, worker }) => {
    count(reason);
    const earlier = silent.get(reason) ?? { untilMs: 0, skipped: 0 };
    if (nowMs() < earlier.untilMs) {
      earlier.skipped += 1;
      return;
    }
    silent.set(reason, { untilMs: nowMs() + recordEveryMs, skipped: 0 });
    const more =
      earlier.skipped === 0 ? '' : ` (and ${earlier.skipped} more refused as ${reason} since the last report)`;
    report({ type: 'link-refused', worker: worker ?? null, message: `${message}${more}` });
  };
}
