import { parseArgs } from 'node:util';
import type { SimulationOutcome } from './simulate.ts';
import { simulate } from './simulate.ts';

const usage = `npm run simulate -- [--seeds 1000] [--from 1] [--hours 0.1]   one simulated host per seed, for so many virtual hours
npm run simulate -- --seed N [--hours 0.1]                     repeats one seed; if it fails, prints the end of its trace

Exit code 1: an invariant did not hold for some seed.
`;
const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    from: { type: 'string', default: '1' },
    seed: { type: 'string' },
    hours: { type: 'string', default: '0.1' },
    help: { type: 'boolean', default: false },
  },
});
const hours = Number(values.hours);
const say = (line: string): void => void process.stdout.write(`${line}\n`);

if (values.help) process.stdout.write(usage);
else if (values.seed !== undefined) {
  const outcome = await simulate(Number(values.seed), hours);
  if (outcome.failure !== '') say(outcome.lastLines.join('\n'));
  say(`seed ${outcome.seed}: trace ${outcome.digest}, ${outcome.steps} steps; ${outcome.failure || 'everything held'}`);
  process.exitCode = outcome.failure === '' ? 0 : 1;
} else {
  process.exitCode = (await all(Number(values.from), Number(values.seeds))) === 0 ? 0 : 1;
}

async function all(from: number, count: number): Promise<number> {
  const startedAtMs = performance.now();
  const failed: number[] = [];
  const ended = new Map<string, number>();
  let [virtualMs, steps, reportedAtMs] = [0, 0, startedAtMs];
  for (let seed = from; seed < from + count; seed += 1) {
    const outcome = await simulate(seed, hours);
    virtualMs += outcome.virtualMs;
    steps += outcome.steps;
    for (const [how, times] of outcome.ended) ended.set(how, (ended.get(how) ?? 0) + times);
    if (outcome.failure !== '') failed.push(tellFailure(outcome));
    if (performance.now() - reportedAtMs < 10_000) continue;
    reportedAtMs = performance.now();
    say(`${seed - from + 1} of ${count} seeds, ${failed.length} failed`);
  }
  const seconds = (performance.now() - startedAtMs) / 1000;
  const pace = Math.round(virtualMs / 1000 / seconds);
  const requests = [...ended.values()].reduce((sum, times) => sum + times, 0);
  say(`${count} seeds, ${(virtualMs / 3_600_000).toFixed(1)} virtual hours in ${seconds.toFixed(1)} s (${pace} to 1)`);
  say(`${steps} steps, ${requests} requests: ${[...ended].map(([how, times]) => `${how} ${times}`).join(', ')}`);
  say(failed.length === 0 ? 'everything held' : `failed seeds: ${failed.join(' ')}`);
  return failed.length;
}

function tellFailure({ seed, failure }: SimulationOutcome): number {
  say(`seed ${seed}: ${failure.split('\n', 1)}`);
  return seed;
}
