import { pause } from '../../bench/processes.ts';
import { createRandom } from '../simulate/random.ts';
import type { ChaosAgent, ChaosExit } from './agent.ts';
import { startChaosAgent } from './agent.ts';
import { startLoad } from './load.ts';
import { countOne, judge } from './oracle.ts';
import { configText, pools, startSchedule } from './schedule.ts';

const reportEveryMs = 5_000;
/** Of 200 exits that the agent keeps for a pool none is missed so. */
const readExitsEveryMs = 1_000;
/** The last requests may wait for a frozen worker to be found. */
const lastRequestsMs = 60_000;

/** Real processes under load and under everything that may happen to them; what was violated. */
export async function chaos({ seed, minutes }: { seed: number; minutes: number }): Promise<readonly string[]> {
  const agent = await startChaosAgent(configText(3, 2, 1));
  const load = startLoad(agent, createRandom(seed), { pools, streams: 3, depth: 12, plain: false, requests: 0 });
  const schedule = startSchedule(agent, load, createRandom(seed + 1));
  const exits = new Map<string, ChaosExit>();
  const endsAtMs = performance.now() + minutes * 60_000;
  const startedAtMs = performance.now();
  let reportedAtMs = startedAtMs;
  while (performance.now() < endsAtMs) {
    await pause(readExitsEveryMs);
    await readExits(agent, exits);
    if (performance.now() - reportedAtMs < reportEveryMs) continue;
    reportedAtMs = performance.now();
    const seconds = Math.round((reportedAtMs - startedAtMs) / 1000);
    say(`${seconds} s: ${load.ended} requests ended, ${load.errors.length} with an error, ${exits.size} workers ended`);
  }
  await schedule.end();
  const wrong: string[] = [];
  if (!(await load.end(lastRequestsMs))) {
    for (const fate of load.open.values()) wrong.push(`request ${fate.requestId} (${fate.purpose}): it never ended`);
  }
  if (!(await isWhole(agent)))
    wrong.push(`pools: expected them whole again, got ${JSON.stringify(await agent.pools())}`);
  await readExits(agent, exits);
  const runs = agent.runs();
  await agent.stop();
  const left = agent.processes();
  if (left.length > 0) wrong.push(`processes: expected none after the agent's end, got ${left.join(', ')}`);
  if (wrong.length > 0) process.stderr.write(agent.output().slice(-20_000));
  agent.clear();

  const verdict = judge(load, exits, schedule.harmed(), runs);
  say(`seed ${seed}, ${minutes} minutes: ${load.sent} requests, ${load.ended} ended, ${runs.length} runs of commands`);
  say(`done: ${listed(schedule.done)}`);
  say(`workers ended: ${listed(byReason(exits))}`);
  say(`errors that were asked for: ${listed(verdict.asked)}`);
  say(`requests lost, each to its worker's unplanned end: ${listed(verdict.lost)}`);
  return [...wrong, ...verdict.violations];
}

async function readExits(agent: ChaosAgent, exits: Map<string, ChaosExit>): Promise<void> {
  for (const exit of await agent.exits()) exits.set(exit.worker_id, exit);
}

/** Left alone, every pool has as many ready workers as it should before long. */
async function isWhole(agent: ChaosAgent): Promise<boolean> {
  const endsAtMs = performance.now() + lastRequestsMs;
  while (performance.now() < endsAtMs) {
    if ((await agent.pools()).every((pool) => pool.workers_ready >= pool.size)) return true;
    await pause(200);
  }
  return false;
}

function byReason(exits: ReadonlyMap<string, ChaosExit>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { reason } of exits.values()) countOne(counts, reason);
  return counts;
}

export function listed(counts: ReadonlyMap<string, number>): string {
  const all = [...counts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, times]) => `${name} ${times}`);
  return all.length === 0 ? 'none' : all.join(', ');
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
