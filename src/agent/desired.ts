import { judgeIntent } from '../domain/intent.ts';
import { planIntent } from '../domain/plan.ts';
import type { Intent } from '../domain/state.ts';
import { isStopping } from '../domain/state.ts';
import type { DesiredSource, ReleaseOutcome, SetOutcome } from '../grpc/control/desired.ts';
import type { IntentFile } from '../os/storage/intent-file.ts';
import type { Loop } from './loop.ts';

export interface DesiredParts {
  readonly loop: Pick<Loop, 'state' | 'applyNow'>;
  readonly file: IntentFile;
  nowMs(): number;
}

/** Calls that wait for their turn. A control plane has one call at a time. */
const waitingMax = 20;

/**
 * Takes up intents one after another, so that each is compared with the one before. An intent is stored before it is acted on: if the
 * agent dies in between, the next one acts on it.
 */
export function createDesired({ loop, file, nowMs }: DesiredParts): DesiredSource {
  let last: Promise<unknown> = Promise.resolve();
  let waiting = 0;
  const inTurn = async <T>(work: () => Promise<T>): Promise<T | Unstored> => {
    if (waiting >= waitingMax) return { kind: 'unstored', message: `${waiting} earlier calls still wait for the disk` };
    waiting += 1;
    const done = last.then(work).finally(() => {
      waiting -= 1;
    });
    last = done.catch(() => undefined);
    return done;
  };
  const store = async (intent: Intent): Promise<Unstored | undefined> => {
    try {
      await file.store(intent);
      return undefined;
    } catch (error) {
      return { kind: 'unstored', message: error instanceof Error ? error.message : String(error) };
    }
  };
  const plan = (intent: Intent) => planIntent(loop.state(), intent, nowMs());
  return {
    set: (intent, isTrial) =>
      inTurn<SetOutcome>(async () => {
        const verdict = judgeIntent(loop.state(), intent);
        if (verdict.kind === 'outdated' || verdict.kind === 'unknown-pools') return verdict;
        if (verdict.kind === 'same') return { kind: 'unchanged', plan: { pools: [], node: [] } };
        if (isTrial) return { kind: 'changed', plan: plan(intent) };
        const unstored = await store(intent);
        if (unstored !== undefined) return unstored;
        if (isStopping(loop.state().node)) return { kind: 'unstored', message: 'the agent is stopping' };
        const planned = plan(intent);
        loop.applyNow({ type: 'set-intent', intent });
        return { kind: 'changed', plan: planned };
      }),
    release: (refusalOf, by) =>
      inTurn<ReleaseOutcome>(async () => {
        const { intent } = loop.state().node;
        const refusal = refusalOf(intent);
        if (refusal !== undefined) return refusal;
        if (intent === null || intent.released) return { kind: 'released' };
        const unstored = await store({ ...intent, released: true });
        if (unstored !== undefined) return unstored;
        loop.applyNow({ type: 'release-intent', by });
        return { kind: 'released' };
      }),
  };
}

interface Unstored {
  readonly kind: 'unstored';
  readonly message: string;
}
