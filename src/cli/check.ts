import { loadConfig } from '../config/load.ts';
import { formatProblems } from '../config/problem.ts';
import { environment } from './environment.ts';
import { CliError, exitCode } from './exit.ts';
import { print } from './print.ts';

/** All problems of a config at once, or what it asks for. */
export async function check(file: string): Promise<void> {
  const loaded = await loadConfig(file, environment());
  if (!loaded.ok) throw new CliError(exitCode.usage, formatProblems(loaded.problems));
  const pools = [...loaded.config.node.pools.values()].map((pool) => `${pool.name} (${pool.size})`);
  print(`${file}: fine; pools: ${pools.join(', ') || 'none'}`);
}
