import type fc from 'fast-check';
import type { FuzzTarget } from '../agent.ts';

/** One side of the agent that others can reach, and what is thrown at it. A case is plain JSON. */
export interface Surface<Case> {
  readonly name: string;
  readonly cases: fc.Arbitrary<Case>;
  /** How many cases make a round, at most. */
  readonly most: number;
  /** A probe may fail meanwhile: `yes` where a case can take the probe's pool away as it should. */
  readonly harmsProbe: boolean;
  /** It ends the agent itself, so nobody calls meanwhile. */
  readonly restarts: boolean;
  /** Throws the cases, and lets go of all that it holds. What it returns is wrong; undefined: nothing. */
  attack(target: FuzzTarget, cases: readonly Case[]): Promise<string | undefined>;
}
