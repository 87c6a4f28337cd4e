/** A table of states, and of where each event leads from each state. States are numbers, so that a move is an array access. */
interface Transitions<State extends string, Event extends string> {
  readonly states: Readonly<Record<State, number>>;
  /** The names by state. */
  readonly names: readonly State[];
  readonly events: Readonly<Record<Event, Transition>>;
}

/** One event, and where it leads. */
export interface Transition {
  readonly name: string;
  /** The next state by state. It is the same state if the event changes nothing; -1: the event is illegal there. */
  readonly next: readonly number[];
}

/** For each state in which the event may come: the next state, or why the event changes nothing. Elsewhere the event is illegal. */
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

/** Returns the next state. An illegal event throws. */
export function next(of: string, names: readonly string[], state: number, { name, next: to }: Transition): number {
  const following = to[state] as number;
  if (following < 0) throw new Error(`${of}: expected no "${name}" in state "${names[state]}"`);
  return following;
}
