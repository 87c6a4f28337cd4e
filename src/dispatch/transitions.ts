/** A table of states and of where each event leads from each of them; states are numbers, so that a move is an index. */
interface Transitions<State extends string, Event extends string> {
  readonly states: Readonly<Record<State, number>>;
  /** By state. */
  readonly names: readonly State[];
  readonly events: Readonly<Record<Event, Transition>>;
}

/** One event. */
export interface Transition {
  readonly name: string;
  /** By state: the next one, which is the same where the event changes nothing; -1: the event is illegal there. */
  readonly next: readonly number[];
}

/** By the state in which the event comes: the next state, or why the event changes nothing. A state that is missing forbids it. */
export type Row<State extends string> = Readonly<Partial<Record<State, State | Ignored>>>;

interface Ignored {
  readonly ignoredBecause: string;
}

export function ignored(because: string): Ignored {
  return { ignoredBecause: because };
}

export function createTransitions<State extends string, Event extends string>(
  names: readonly State[],
  rows: Readonly<Record<Event, Row<State>>>,
): Transitions<State, Event> {
  const states = Object.freeze(Object.fromEntries(names.map((name, state) => [name, state]))) as Record<State, number>;
  const nextOf = (row: Row<State>, name: State): number => {
    const cell: State | Ignored | undefined = row[name];
    if (cell === undefined) return -1;
    return typeof cell === 'object' ? states[name] : states[cell];
  };
  const events = Object.entries<Row<State>>(rows).map(([name, row]) => {
    return [name, Object.freeze({ name, next: Object.freeze(names.map((state) => nextOf(row, state))) })] as const;
  });
  return Object.freeze({
    states,
    names,
    events: Object.freeze(Object.fromEntries(events)) as Record<Event, Transition>,
  });
}

/** The state that follows. An illegal event throws. */
export function next(of: string, names: readonly string[], state: number, { name, next: to }: Transition): number {
  const following = to[state] as number;
  if (following < 0) throw new Error(`${of}: expected no "${name}" in state "${names[state]}"`);
  return following;
}
