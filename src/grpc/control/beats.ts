import type { ControlSource } from './source.ts';

/**
 * The clock of all streams of Report. A beat is made when one of them is due or after a change, once for all of them: ten streams
 * cost one computation.
 */
export interface Beats<Beat> {
  /** `give` gets a beat soon, then at least one every `intervalMs`, until `leave` is called. */
  follow(intervalMs: number, give: Give<Beat>): BeatFollower;
}

/**
 * `lateMs`: how late the agent was since the last beat that was taken. False: the follower has no room for the beat, and gets the
 * next one after it has called `resume`.
 */
export type Give<Beat> = (beat: Beat, lateMs: number) => boolean;

export interface BeatFollower {
  resume(): void;
  leave(): void;
}

/** The shortest time between two beats, and the longest from a change to its beat. */
export const beatGapMs = 100;
/** Changes often come together, so that one beat can show them all. */
const changeDelayMs = 50;
/** A follower that is due within this time, and within half of its interval, gets the beat of another one. */
const gatherMs = 500;

interface Followed<Beat> {
  readonly intervalMs: number;
  readonly give: Give<Beat>;
  dueAtMs: number;
  lateMs: number;
  hasRoom: boolean;
}

export function createBeats<Beat>(
  source: Pick<ControlSource, 'nowMs' | 'subscribe' | 'report'>,
  makeBeat: () => Beat,
): Beats<Beat> {
  const { nowMs } = source;
  const followers = new Set<Followed<Beat>>();
  let unsubscribe: (() => void) | null = null;
  let timer: NodeJS.Timeout | null = null;
  let timerAtMs = Number.POSITIVE_INFINITY;
  let changedAtMs = Number.POSITIVE_INFINITY;
  let lastBeatAtMs = Number.NEGATIVE_INFINITY;

  const arm = (): void => {
    let atMs = changedAtMs + changeDelayMs;
    for (const { dueAtMs } of followers) atMs = Math.min(atMs, dueAtMs);
    atMs = Math.max(atMs, lastBeatAtMs + beatGapMs);
    if (timer !== null && atMs === timerAtMs) return;
    if (timer !== null) clearTimeout(timer);
    timerAtMs = atMs;
    timer = Number.isFinite(atMs) ? setTimeout(tick, Math.max(0, Math.ceil(atMs - nowMs()))) : null;
  };

  const tick = (): void => {
    timer = null;
    const now = nowMs();
    const lateMs = Math.max(0, now - timerAtMs, source.report.loopLateMs());
    const hasChanged = changedAtMs <= now;
    changedAtMs = Number.POSITIVE_INFINITY;
    lastBeatAtMs = now;
    const beat = makeBeat();
    for (const follower of [...followers]) {
      follower.lateMs = Math.max(follower.lateMs, lateMs);
      if (!hasChanged && !isDue(follower, now)) continue;
      follower.dueAtMs = now + follower.intervalMs;
      follower.hasRoom = follower.give(beat, follower.lateMs);
      if (follower.hasRoom) follower.lateMs = 0;
    }
    arm();
  };

  const leave = (follower: Followed<Beat>): void => {
    followers.delete(follower);
    if (followers.size > 0) return arm();
    unsubscribe?.();
    unsubscribe = null;
    changedAtMs = Number.POSITIVE_INFINITY;
    arm();
  };

  return {
    follow: (intervalMs, give) => {
      const follower: Followed<Beat> = { intervalMs, give, dueAtMs: nowMs(), lateMs: 0, hasRoom: true };
      followers.add(follower);
      unsubscribe ??= source.subscribe(() => {
        changedAtMs = Math.min(changedAtMs, nowMs());
        arm();
      });
      arm();
      return {
        resume: () => {
          if (follower.hasRoom || !followers.has(follower)) return;
          follower.hasRoom = true;
          follower.dueAtMs = nowMs();
          arm();
        },
        leave: () => leave(follower),
      };
    },
  };
}

function isDue({ dueAtMs, intervalMs }: { readonly dueAtMs: number; readonly intervalMs: number }, now: number) {
  return dueAtMs <= now + Math.max(beatGapMs, Math.min(gatherMs, intervalMs / 2));
}
