import { describe, expect, test } from 'vitest';
import { delivery, deliveryEvents, deliveryRows, deliveryStates, moveDelivery } from '../../src/dispatch/delivery.ts';
import { moveRun, run, runEvents, runRows, runStates } from '../../src/dispatch/run.ts';
import type { Row, Transition } from '../../src/dispatch/transitions.ts';

interface Table {
  readonly of: string;
  readonly states: readonly string[];
  readonly rows: Readonly<Record<string, Row<string>>>;
  readonly events: Readonly<Record<string, Transition>>;
}

const tables: readonly Table[] = [
  { of: 'run', states: runStates, rows: runRows, events: runEvents },
  { of: 'delivery', states: deliveryStates, rows: deliveryRows, events: deliveryEvents },
];

describe.each(tables)('the table of the $of', ({ states, rows, events }) => {
  test('the table has for each state and event the next state, the same state or an error', () => {
    for (const [name, row] of Object.entries(rows)) {
      for (const [state, stateName] of states.entries()) {
        const cell = row[stateName];
        const expected = cell === undefined ? -1 : typeof cell === 'string' ? states.indexOf(cell) : state;
        expect(events[name]?.next[state], `${name} in ${stateName}`).toBe(expected);
      }
    }
  });

  test('the table leads to each state but the first', () => {
    const reached = new Set(Object.values(rows).flatMap((row) => Object.values(row)));
    expect(states.slice(1).filter((state) => !reached.has(state))).toEqual([]);
  });
});

test('an illegal event throws and leaves the state as it was', () => {
  const request = { run: run.queued, delivery: delivery.forgotten };
  expect(() => moveRun(request, runEvents.answered)).toThrow('expected no "answered" in state "queued"');
  expect(() => moveDelivery(request, deliveryEvents.sinkBack)).toThrow('expected no "sinkBack" in state "forgotten"');
  expect(request).toEqual({ run: run.queued, delivery: delivery.forgotten });
});
