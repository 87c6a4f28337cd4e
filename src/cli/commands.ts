import { withAgent } from './connect.ts';
import { CliError, exitCode } from './exit.ts';
import { listPools } from './lists.ts';
import { print, printJson } from './print.ts';
import { table } from './table.ts';

/** Lists the commands that ready workers offer, of all pools or of one. */
export async function commands(
  pool: string | undefined,
  options: { readonly socket?: string; readonly json?: boolean },
): Promise<void> {
  const pools = await withAgent(options.socket, listPools);
  const asked = pools.filter((each) => pool === undefined || each.pool === pool);
  if (asked.length === 0 && pool !== undefined) {
    const names = pools.map((each) => each.pool).join(', ') || 'none';
    throw new CliError(exitCode.failed, `pool: expected one of this node's pools (${names}), got "${pool}"`);
  }
  const found = asked.flatMap((each) => each.commands.map((command) => ({ pool: each.pool, ...command })));
  if (options.json === true) return printJson(found);
  const rows = found.map(({ pool: name, name: command, streams, summary }) => [
    name,
    command,
    streams ? 'stream' : 'one',
    summary,
  ]);
  print(table(['POOL', 'COMMAND', 'RESULTS', 'SUMMARY'], rows));
}
