import type { ServerWritableStream } from '@grpc/grpc-js';
import type { Beats } from './beats.ts';
import { beatGapMs } from './beats.ts';
import { writerOf } from './control-answers.ts';
import { intervalOf } from './interval.ts';
import { refusalStatus } from './refusals.ts';
import type { ReportBeat } from './report-view.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { endWhenLeaving } from './watch.ts';

const intervals = { defaultMs: 1_000, leastMs: beatGapMs, mostMs: 60_000 };

/**
 * Sends beats until the caller leaves. While a beat is unread the next ones are left out, and once it is read the newest follows: a
 * stream never has more than one beat unread.
 */
export function report(
  source: ControlSource,
  beats: Beats<ReportBeat>,
  call: ServerWritableStream<ControlRequest, object>,
): void {
  let intervalMs: number;
  try {
    intervalMs = intervalOf(call.request, 'interval_ms', intervals);
  } catch (error) {
    call.emit('error', refusalStatus(error));
    return;
  }
  const write = writerOf(call);
  let sequence = 0;
  let unreadMessages = 0;
  const onTaken = (): void => {
    unreadMessages -= 1;
    if (unreadMessages === 0) follower.resume();
  };
  const follower = beats.follow(intervalMs, ({ head, parts }, lateMs) => {
    sequence += 1;
    if (unreadMessages > 0) return false;
    unreadMessages = parts.length;
    for (const [index, pools] of parts.entries()) {
      const more = index < parts.length - 1;
      const message = { ...head, sequence, loop_lag_ms: Math.round(lateMs), more, pools };
      if (!write(message, onTaken)) {
        follower.leave();
        break;
      }
    }
    return true;
  });
  endWhenLeaving(source, call, follower.leave);
}
