import { parseArgs } from 'node:util';
import type { Report } from './report.ts';
import { publish } from './report.ts';
import { floor } from './suites/floor.ts';
import type { SuiteOptions } from './suites/options.ts';
import { peers } from './suites/peers.ts';
import { report } from './suites/report.ts';
import { telemetry } from './suites/telemetry.ts';
import { tls } from './suites/tls.ts';
import { memory, weight } from './suites/weight.ts';

const suites: Readonly<Record<string, (options: SuiteOptions) => Promise<Report>>> = {
  floor,
  weight,
  memory,
  tls,
  report,
  telemetry,
  peers,
};
const usage = `npm run bench -- [${Object.keys(suites).join('|')}]… [--rounds 5] [--seconds 2] [--only TEXT] [--docs]

Without a name: all of floor, weight, memory, tls, report, telemetry. peers: what else there is, installed by pip into .pitwarden/peers.
--only "128 B, 32": only the settings whose title holds that.
--docs: the tables go into docs/benchmarks.md.
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '2' },
    only: { type: 'string' },
    docs: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const unknown = positionals.filter((name) => !(name in suites));
if (values.help || unknown.length > 0) {
  if (unknown.length > 0)
    process.stderr.write(`expected ${Object.keys(suites).join(', ')}, got ${unknown.join(', ')}\n\n`);
  process.stdout.write(usage);
  process.exit(unknown.length > 0 ? 2 : 0);
}
const names = positionals.length > 0 ? positionals : ['floor', 'weight', 'memory', 'tls', 'report', 'telemetry'];
for (const name of names) {
  const suite = suites[name];
  if (suite === undefined) continue;
  process.stdout.write(`\n== ${name}\n`);
  const options = { rounds: Number(values.rounds), seconds: Number(values.seconds), only: values.only };
  publish(await suite(options), values.docs);
}
