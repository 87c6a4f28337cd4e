import { parseArgs } from 'node:util';
import { fuzz, say } from './fuzz.ts';

const usage = `npm run fuzz -- [--seed N] [--seconds 60]     malformed and hostile bytes at every side of a real agent
npm run fuzz -- --seed N --round I            one round again, on a fresh agent
npm run fuzz -- --surface NAME                only calls, frames, liars, HTTP, config or state

Without --seed each run draws another one. Exit code 1: the agent did not come through; the seed and the smallest case are printed.
`;
const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seconds: { type: 'string', default: '60' },
    round: { type: 'string' },
    surface: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) process.stdout.write(usage);
else {
  const seed = Number(values.seed ?? Math.floor(Math.random() * 10_000));
  const round = values.round === undefined ? null : Number(values.round);
  say(`seed ${seed}`);
  const surface = values.surface ?? null;
  const found = await fuzz({ seed, seconds: Number(values.seconds), round, surface });
  if (found === undefined) say('the agent came through');
  else {
    const again = [`--seed ${seed}`, `--round ${found.round}`, ...(surface === null ? [] : [`--surface ${surface}`])];
    say(`\n${found.surface}: ${found.problem}`);
    say(`smallest case: ${found.smallest.slice(0, 5_000)}`);
    say(`again: npm run fuzz -- ${again.join(' ')}`);
  }
  process.exit(found === undefined ? 0 : 1);
}
