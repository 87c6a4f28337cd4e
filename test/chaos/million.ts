import { pause } from '../../bench/processes.ts';
import { createRandom } from '../simulate/random.ts';
import { startChaosAgent } from './agent.ts';
import { say } from './chaos.ts';
import { startLoad } from './load.ts';

const reportEveryMs = 5_000;
const size = 4;

/** Workers that may serve 100 requests each, and are rolled all the time besides: not one request may fail. */
export async function million(options: { seed: number; requests: number; depth: number }): Promise<readonly string[]> {
  const { seed, requests, depth } = options;
  const agent = await startChaosAgent(
    `  p: { COMMON, env: { CHAOS_RUNS: 'FOLDER' }, size: ${size}, queue: { max_requests: ${depth} }, ` +
      'recycle: { max_requests: 100, max_surge: 2, min_lifetime: off } }',
  );
  const load = startLoad(agent, createRandom(seed), { pools: ['p'], streams: 1, depth, plain: true, requests });
  const startedAtMs = performance.now();
  const workers = new Set<string>();
  const wrong: string[] = [];
  let [reportedAtMs, rolls] = [startedAtMs, 0];
  const tell = (): void => {
    const seconds = (performance.now() - startedAtMs) / 1000;
    const failed = load.errors.length;
    say(
      `${seconds.toFixed(0)} s: ${load.ended} of ${requests} requests, ${failed} failed; ` +
        `${workers.size} workers born, ${(workers.size / seconds).toFixed(1)} a second; ${rolls} rolls of all ${size} workers done`,
    );
  };
  const isOver = (): boolean => load.ended >= requests || load.violations.length > 0;
  const rolling = (async (): Promise<void> => {
    while (!isOver()) {
      const ended = await agent.roll('p');
      if (ended === 'ROLL_STATE_DONE') rolls += 1;
      else if (!isOver()) wrong.push(`a roll ended ${ended}`);
    }
  })();
  while (!isOver()) {
    for (const { worker_id } of await agent.workers()) workers.add(worker_id);
    for (const { worker_id } of await agent.exits()) workers.add(worker_id);
    await pause(200);
    if (performance.now() - reportedAtMs < reportEveryMs) continue;
    reportedAtMs = performance.now();
    tell();
  }
  tell();
  await rolling;
  wrong.push(...load.violations);
  for (const { requestId, error } of load.errors.slice(0, 20))
    wrong.push(`${requestId}: ${error?.code} ${error?.message}`);
  if (!(await load.end(60_000))) wrong.push(`${load.open.size} requests never ended`);
  await agent.stop();
  const left = agent.processes();
  if (left.length > 0) wrong.push(`processes: expected none after the agent's end, got ${left.join(', ')}`);
  agent.clear();
  return wrong;
}
