import { loadConfig } from '../config/load.ts';
import { formatProblems } from '../config/problem.ts';
import { environment } from './environment.ts';
import { CliError, exitCode } from './exit.ts';
import { print } from './print.ts';

/** Prints all problems of a config, or the pools that it defines. */
export async function check(file: string): Promise<void> {
  const loaded = await loadConfig(file, environment());
  if (!loaded.ok) throw new CliError(exitCode.usage, formatProblems(loaded.problems));
  const pools = [...loaded.config.node.pools.values()].map((pool) => `${pool.name} (${pool.size})`);
  print(`${file}: fine; pools: ${pools.join(', ') || 'none'}`);
}
