import fc from 'fast-check';
import { pause } from '../../bench/processes.ts';
import type { FuzzTarget, Use } from './agent.ts';
import { budgetMib, prepareTarget } from './agent.ts';
import type { Probe, Probed } from './probe.ts';
import { p99, startProbe } from './probe.ts';
import { bombs, calls } from './surfaces/calls.ts';
import { config } from './surfaces/config.ts';
import { frames } from './surfaces/frames.ts';
import { http } from './surfaces/http.ts';
import { liars } from './surfaces/liars.ts';
import { repeatedCalls, repeatedConnections } from './surfaces/repeats.ts';
import { state } from './surfaces/state.ts';
import type { Surface } from './surfaces/surface.ts';

/**
 * Rounds of seeded cases against one real agent. After each round the agent has to be as it was: alive, its pools whole, its
 * memory and descriptors back, and the calls of somebody else answered in time all the while.
 */

const p99MaxMs = 250;
/** Above what it had at rest, once all connections of a round are closed. */
const heldMoreMib = 48;
const descriptorsMore = 8;
/**
 * Above what it had when the round began: the callers' budget, the links' of the same size, one frame, and garbage that is not
 * collected yet; or the 512 MiB of a thread that reads a config.
 */
const peakMoreMib = 4 * budgetMib;
const backWithinMs = 25_000;
const wholeWithinMs = 30_000;
const newAgentProbedMs = 500;
const shrinkForMs = 90_000;
/** A round too slow to judge in one go counts only if most of so many goes are too slow. */
const latencyGoes = 3;

// biome-ignore lint/suspicious/noExplicitAny: each surface takes its own cases alone
const surfaces: readonly Surface<any>[] = [
  ...[calls, frames, liars, http, config, bombs],
  ...[state, repeatedCalls, calls, repeatedConnections],
];

export interface FuzzOptions {
  readonly seed: number;
  readonly seconds: number;
  /** Only this round. */
  readonly round: number | null;
  readonly surface: string | null;
}

export interface FuzzFinding {
  readonly round: number;
  readonly surface: string;
  readonly problem: string;
  readonly smallest: string;
}

export async function fuzz({ seed, seconds, round, surface }: FuzzOptions): Promise<FuzzFinding | undefined> {
  const endsAtMs = performance.now() + seconds * 1_000;
  const chosen = surfaces.filter(({ name }) => surface === null || name === surface);
  const lab = new Lab();
  try {
    // In a short time, or on a slow machine, still one round of each.
    for (let index = round ?? 0; index < chosen.length || performance.now() < endsAtMs || index === round; index += 1) {
      const next = chosen[index % chosen.length];
      if (next === undefined)
        throw new Error(`--surface: expected one of ${surfaces.map(({ name }) => name).join(', ')}`);
      const found = await runRound(lab, next, seed * 100_003 + index);
      if (found !== undefined) return { round: index, surface: next.name, ...found };
      if (round !== null) break;
    }
    return undefined;
  } finally {
    await lab.clear();
  }
}

async function runRound<Case>(
  lab: Lab,
  surface: Surface<Case>,
  seed: number,
): Promise<{ problem: string; smallest: string } | undefined> {
  let problem = '';
  let broken: unknown;
  let cases = 0;
  const startedAtMs = performance.now();
  let shrinksUntilMs = Number.POSITIVE_INFINITY;
  const property = fc.asyncProperty(
    fc.array(surface.cases, { minLength: 1, maxLength: surface.most, size: 'max' }),
    async (drawn) => {
      // Shrinking is over: the smallest so far stays.
      if (performance.now() > shrinksUntilMs) return;
      cases = drawn.length;
      if (broken !== undefined) return;
      const wrong = await lab.go(surface, drawn).catch((error: unknown) => {
        broken = error;
      });
      if (wrong === undefined) return;
      if (shrinksUntilMs === Number.POSITIVE_INFINITY) {
        shrinksUntilMs = performance.now() + shrinkForMs;
        say(`${surface.name}: ${wrong}; looking for the smallest case`);
      }
      problem = wrong;
      throw new Error(wrong);
    },
  );
  const details = await fc.check(property, { seed: seed | 0, numRuns: 1 });
  // Of the fuzzer, not of the agent.
  if (broken !== undefined) throw broken;
  const tookMs = Math.round(performance.now() - startedAtMs);
  if (!details.failed) {
    say(`${surface.name}: ${cases} cases in ${tookMs} ms; ${lab.summary}`);
    return undefined;
  }
  return { problem, smallest: JSON.stringify(details.counterexample?.[0]) };
}

/** One agent at a time. After something was wrong with one the next round begins with a new one. */
class Lab {
  summary = '';
  #target: FuzzTarget | null = null;
  #probe: Probe | null = null;
  /** What the first agent in this folder had at rest; those that follow it must do with as much. */
  #rest: Use | null = null;

  /** What is wrong after these cases. */
  async go<Case>(surface: Surface<Case>, cases: readonly Case[]): Promise<string | undefined> {
    let wrong: Wrong | undefined;
    for (let slow = 0, fast = 0; slow < latencyGoes / 2 && fast < latencyGoes / 2; ) {
      wrong = await this.#once(surface, cases);
      if (wrong !== undefined && !wrong.isLatency) break;
      if (wrong === undefined && slow === 0) break;
      if (wrong === undefined) fast += 1;
      else slow += 1;
    }
    if (wrong !== undefined) await this.clear();
    return wrong?.text;
  }

  async clear(): Promise<void> {
    const [target, probe] = [this.#target, this.#probe];
    this.#target = null;
    this.#probe = null;
    this.#rest = null;
    // With a dead agent its calls end at once.
    if (target !== null && probe !== null) await probe.end();
    await target?.clear();
  }

  async #once<Case>(surface: Surface<Case>, cases: readonly Case[]): Promise<Wrong | undefined> {
    const target = await this.#ready(surface.restarts);
    target.forgetPeak();
    const beganMib = target.peakMib();
    await this.#probe?.take();
    const printed = target.printed();
    const attacked = await surface
      .attack(target, cases)
      .catch((error: Error) => `the attack broke off: ${error.stack}`);
    if (target.dead() !== undefined) {
      // Of one that did not start, the attack says what it printed.
      const words = (surface.restarts ? attacked : undefined) ?? target.output();
      return { text: `the agent has ended:\n${words.slice(-3_000)}`, isLatency: false };
    }
    const during = (await this.#probe?.take()) ?? [];
    const notWhole = attacked ?? (await isWholeAgain(target));
    if (notWhole !== undefined) return { text: notWhole, isLatency: false };
    // What a new agent found may hold up its callers as well.
    const probed = surface.restarts ? await this.#probeFor(target, newAgentProbedMs) : during;
    const problem =
      exceptionIn(target.outputSince(printed)) ??
      (surface.harmsProbe ? undefined : probed.find(({ error }) => error !== '')?.error) ??
      (await this.#isBack(target, surface.restarts ? 0 : beganMib));
    if (problem !== undefined) return { text: problem, isLatency: false };
    const answered = probed.filter(({ error }) => error === '');
    const judged = p99(answered.map(({ judgedMs }) => judgedMs));
    const seen = p99(answered.map(({ ms }) => ms));
    this.summary = `${answered.length} probes, p99 ${seen.toFixed(0)} ms, ${judged.toFixed(0)} ms without the machine's own; peak ${target.peakMib().toFixed(0)} MiB`;
    if (judged <= p99MaxMs) return undefined;
    return {
      text: `another caller's p99: expected at most ${p99MaxMs} ms, got ${judged.toFixed(0)} ms`,
      isLatency: true,
    };
  }

  /** An agent at rest, with a probe unless it is about to be restarted. */
  async #ready(restarts: boolean): Promise<FuzzTarget> {
    if (this.#target === null) {
      this.#target = prepareTarget();
      await this.#target.start();
      const problem = await isWholeAgain(this.#target);
      if (problem !== undefined) throw new Error(`a new agent: ${problem}\n${this.#target.output().slice(-3_000)}`);
    }
    const target = this.#target;
    await this.#startProbe(target);
    if (!restarts) return target;
    await this.#probe?.end();
    this.#probe = null;
    return target;
  }

  async #startProbe(target: FuzzTarget): Promise<Probe> {
    if (this.#probe !== null) return this.#probe;
    const workerId = await target.execute('probe', 'echo', 10_000);
    const worker = (await target.workers('probe')).find((each) => each.worker_id === workerId);
    const workerPid = worker?.pid ?? target.pid();
    this.#probe = startProbe({ socket: target.socket, agentPid: target.pid(), workerPid });
    await pause(500);
    this.#rest ??= await target.use();
    return this.#probe;
  }

  async #probeFor(target: FuzzTarget, ms: number): Promise<readonly Probed[]> {
    const probe = await this.#startProbe(target);
    await pause(ms);
    return probe.take();
  }

  async #isBack(target: FuzzTarget, beganMib: number): Promise<string | undefined> {
    const rest = this.#rest ?? { heldMib: 0, descriptors: 0 };
    const peakMib = target.peakMib();
    if (peakMib - beganMib > peakMoreMib) {
      return (
        `memory: expected at most ${peakMoreMib} MiB above the ${beganMib.toFixed(0)} MiB before the round, ` +
        `got ${peakMib.toFixed(0)} MiB`
      );
    }
    const endsAtMs = performance.now() + backWithinMs;
    for (;;) {
      const now = await target.use();
      const heldMib = now.heldMib - rest.heldMib;
      const descriptors = now.descriptors - rest.descriptors;
      if (heldMib <= heldMoreMib && descriptors <= descriptorsMore) return undefined;
      if (performance.now() > endsAtMs) {
        return (
          `${backWithinMs / 1_000} s after the last connection: expected at most ${descriptorsMore} descriptors and ` +
          `${heldMoreMib} MiB more than at rest, got ${descriptors} and ${heldMib.toFixed(0)}`
        );
      }
      await pause(250);
    }
  }
}

interface Wrong {
  readonly text: string;
  /** By a slow machine it can come about as well, so it has to come again. */
  readonly isLatency: boolean;
}

/** Left alone, the pools serve. What the cases asked for by Control is taken back first. */
async function isWholeAgain(target: FuzzTarget): Promise<string | undefined> {
  const endsAtMs = performance.now() + wholeWithinMs;
  for (;;) {
    await target.control('ResumeNode').catch(() => undefined);
    await target.control('AbortRoll', { pool: 'p' }).catch(() => undefined);
    for (const [pool, size] of [
      ['p', 1],
      ['liar', 1],
      ['probe', 1],
    ] as const) {
      await target.control('ResumePool', { pool }).catch(() => undefined);
      await target.control('ScalePool', { pool, size }).catch(() => undefined);
    }
    const problem = await target.notWhole();
    if (problem === undefined) return undefined;
    if (target.dead() !== undefined) return `the agent has ended:\n${target.output().slice(-3_000)}`;
    if (performance.now() > endsAtMs)
      return `the pools: expected them whole within ${wholeWithinMs / 1_000} s, got: ${problem}`;
    await pause(200);
  }
}

/** What Node prints of an exception that nobody caught, or the agent's own last resort: not what a worker's Python raised. */
function exceptionIn(output: string): string | undefined {
  return output.split('\n').find((line) => {
    const isOfWorker = line.startsWith('{') && (line.includes('"worker_id"') || !/"level":"(error|fatal)"/.test(line));
    return !isOfWorker && /TypeError|RangeError|ReferenceError|uncaught|unhandled|MaxListeners/i.test(line);
  });
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
