import type { ServerWritableStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { isOpen } from '../../domain/roll.ts';
import type { Roll } from '../../domain/state.ts';
import { failedStatus } from '../error-details.ts';
import type { Changes } from './changes.ts';
import { callerOf, writerOf } from './control-answers.ts';
import { findPool, Refusal, refusalStatus, text, writablePool } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { rollView } from './view.ts';
import { endWhenLeaving } from './watch.ts';

const rollFailuresMax = 3;

export function onRoll(
  source: ControlSource,
  request: ControlRequest,
  type: 'pause-roll' | 'resume-roll' | 'abort-roll',
  phases: readonly Roll['phase'][],
): object {
  const pool = writablePool(source, request);
  const phase = pool.roll?.phase ?? 'none';
  if (!(phases as readonly string[]).includes(phase)) {
    const expected = `expected a roll that is ${phases.join(' or ')}`;
    throw new Refusal(status.FAILED_PRECONDITION, `pool ${pool.name}: ${expected}, got ${phase}`, 'ROLL_STATE');
  }
  source.command({ type, pool: pool.name });
  return viewRoll(source, pool.name) ?? {};
}

function viewRoll(source: ControlSource, pool: string): object | undefined {
  const roll = source.state().pools.get(pool)?.roll;
  return roll == null ? undefined : rollView(pool, roll, source.state().workers.values(), source.toUnixMs);
}

/** Begins a roll, and reports its progress until it ends. A repeated call follows the roll that the first one began. */
export function rollPool(source: ControlSource, changes: Changes, call: RollCall): void {
  const { request } = call;
  const begin = (): ChosenRoll => {
    const { name } = writablePool(source, request);
    const maxFailures = Number(request['max_failures'] ?? 0) || rollFailuresMax;
    source.command({ type: 'roll', pool: name, maxFailures });
    return { name, rollId: source.state().pools.get(name)?.roll?.id };
  };
  followRoll(source, call, () => changes.run(request, callerOf(call), begin));
}

/** Reports the progress of a roll that was begun before, maybe by an earlier agent. */
export function watchRoll(source: ControlSource, call: RollCall): void {
  followRoll(source, call, async () => {
    const { name, roll } = findPool(source, text(call.request, 'pool'));
    const wanted = text(call.request, 'roll_id');
    if (roll !== null && (wanted === '' || wanted === roll.id)) {
      await source.ordersKept();
      return { name, rollId: roll.id };
    }
    const last = roll === null ? 'the pool has had none' : `the last one is ${roll.id} (${roll.phase})`;
    throw new Refusal(
      status.NOT_FOUND,
      `roll_id: expected the last roll of pool ${name} (${last}), got "${wanted}"`,
      'ROLL_NOT_FOUND',
    );
  });
}

type RollCall = ServerWritableStream<ControlRequest, object>;

interface ChosenRoll {
  readonly name: string;
  readonly rollId: string | undefined;
}

/** Reports the progress of the chosen roll, until it ends or another roll replaces it. */
function followRoll(source: ControlSource, call: RollCall, choose: () => Promise<ChosenRoll>): void {
  let reported = '';
  let isOver = false;
  let unsubscribe = (): void => undefined;
  const write = writerOf(call);
  const end = (): void => {
    isOver = true;
    unsubscribe();
  };
  const report = ({ name, rollId }: ChosenRoll): void => {
    if (isOver) return;
    const roll = source.state().pools.get(name)?.roll;
    const view = roll?.id === rollId ? viewRoll(source, name) : undefined;
    if (view === undefined || roll == null) {
      end();
      call.emit(
        'error',
        failedStatus(
          status.ABORTED,
          `pool ${name}: the roll ended, because the pool was removed or another roll replaced it`,
          'ABORTED',
        ),
      );
      return;
    }
    const text = JSON.stringify(view);
    if (text !== reported && !write(view)) return end();
    reported = text;
    if (isOpen(roll)) return;
    end();
    call.end();
  };
  const follow = (chosen: ChosenRoll): void => {
    if (isOver) return;
    unsubscribe = source.subscribe(({ pools, poolsGone }) => {
      if (pools.includes(chosen.name) || poolsGone.includes(chosen.name)) report(chosen);
    });
    report(chosen);
  };
  endWhenLeaving(source, call, end);
  choose().then(follow, (error) => call.emit('error', refusalStatus(error)));
}
