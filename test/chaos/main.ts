import { parseArgs } from 'node:util';
import { chaos } from './chaos.ts';
import { million } from './million.ts';
import { survive } from './survive.ts';

const usage = `npm run chaos -- [--minutes 10] [--seed N]       kills, freezes, leaks, recycles, scales and reloads under load
npm run chaos -- --million [--requests 1000000]  the load of a pool whose workers may serve 100 requests each
npm run chaos -- --agent-kills 200 [--seed N]     kill -9 of the agent under load, and a new one at once, so many times

Exit code 1: a request's fate that nothing explains, or a process that was left behind.
`;
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    million: { type: 'boolean', default: false },
    requests: { type: 'string', default: '1000000' },
    'agent-kills': { type: 'string', default: '0' },
    depth: { type: 'string', default: '256' },
    help: { type: 'boolean', default: false },
  },
});
const seed = Number(values.seed);
if (values.help) process.stdout.write(usage);
else {
  const rounds = Number(values['agent-kills']);
  const violations =
    rounds > 0
      ? await survive({ seed, rounds })
      : values.million
        ? await million({ seed, requests: Number(values.requests), depth: Number(values.depth) })
        : await chaos({ seed, minutes: Number(values.minutes) });
  for (const violation of violations.slice(0, 50)) process.stdout.write(`violated: ${violation}\n`);
  process.stdout.write(violations.length === 0 ? 'nothing violated\n' : `${violations.length} violated\n`);
  process.exit(violations.length === 0 ? 0 : 1);
}
