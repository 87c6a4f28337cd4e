import { setTimeout as delay } from 'node:timers/promises';
import { withoutLastLines } from '../domain/why-nothing-starts.ts';
import type { AgentConnection } from './connect.ts';
import { ConnectionLost, withAgent } from './connect.ts';
import { shortLine } from './excerpt.ts';
import { CliError, exitCode } from './exit.ts';
import { ownName, shellWord } from './own-name.ts';
import { print, printError, printInPlace, printJson } from './print.ts';
import { enumLabel } from './table.ts';
import type { RollView } from './views.ts';

export interface RollOptions {
  readonly socket?: string;
  readonly json?: boolean;
  readonly maxFailures?: string;
  readonly watch?: boolean;
  readonly pause?: boolean;
  readonly resume?: boolean;
  readonly abort?: boolean;
}

const barWidth = 30;
/** How long the next agent may take to answer: it starts only after the last calls of the previous one have ended. */
const waitsForAgentMs = 300_000;
const lookEveryMs = 100;

/** Replaces all workers of a pool and shows the progress. Ctrl-C leaves the roll running. */
export async function roll(pool: string, options: RollOptions): Promise<void> {
  const changes = (['pause', 'resume', 'abort'] as const).filter((name) => options[name] === true);
  if (changes.length + (options.watch === true ? 1 : 0) > 1) {
    throw new CliError(exitCode.usage, 'expected one of --watch, --pause, --resume and --abort');
  }
  const [change] = changes;
  if (change !== undefined) {
    const method = { pause: 'PauseRoll', resume: 'ResumeRoll', abort: 'AbortRoll' }[change];
    const view = await withAgent(options.socket, (agent) => agent.call<RollView>('Control', method, { pool }));
    if (options.json === true) printJson(view);
    else print(line(view));
    return;
  }
  const last = await follow(pool, options);
  if (last === undefined || enumLabel(last.state) === 'done') return;
  throw new CliError(exitCode.failed, `pool ${pool}: the roll ${enumLabel(last.state)}: ${last.message}`);
}

/** Shows a roll until it ends. If the agent goes, continues with the next agent. */
async function follow(pool: string, options: RollOptions): Promise<RollView | undefined> {
  const begin = { pool, max_failures: options.maxFailures === undefined ? 0 : failuresMax(options.maxFailures) };
  let seen: RollView | undefined;
  let lostAtMs: number | null = null;
  for (;;) {
    try {
      await withAgent(options.socket, async (agent) => {
        for await (const view of viewsOf(agent, seen, options.watch === true, begin)) {
          seen = view;
          lostAtMs = null;
          show(view, options);
        }
      });
      return seen;
    } catch (error) {
      if (seen === undefined) throw error instanceof ConnectionLost ? mayHaveBegun(pool, error) : error;
      if (!isOpen(seen)) return seen;
      if (!isAgentGone(error)) throw lostAtMs === null ? error : notKnown(seen, error);
      if (lostAtMs === null) noteLoss(seen, options);
      lostAtMs ??= performance.now();
      if (performance.now() >= lostAtMs + waitsForAgentMs) throw noSuccessor(seen);
    }
    await delay(lookEveryMs);
  }
}

function viewsOf(
  agent: AgentConnection,
  seen: RollView | undefined,
  watch: boolean,
  begin: { readonly pool: string; readonly max_failures: number },
): AsyncIterable<RollView> {
  if (seen === undefined && !watch) return agent.stream<RollView>('Control', 'RollPool', begin);
  return agent.stream<RollView>('Control', 'WatchRoll', { pool: begin.pool, roll_id: seen?.roll_id ?? '' });
}

function isAgentGone(error: unknown): boolean {
  return error instanceof ConnectionLost || (error instanceof CliError && error.code === exitCode.noAgent);
}

/** Explains that the next agent does not know the roll; other errors stay as they are. */
function notKnown({ pool, roll_id }: RollView, error: unknown): unknown {
  const unknown = error instanceof CliError && ['NOT_FOUND', 'UNIMPLEMENTED'].includes(String(error.details['status']));
  if (!unknown) return error;
  const message = `pool ${pool}: the agent that answers now does not know ${roll_id}, so the end of the roll is not known`;
  return new CliError(exitCode.failed, `${message}: ${error.message}`, error.details);
}

/** The agent went before it sent the roll's id. */
function mayHaveBegun(pool: string, error: ConnectionLost): CliError {
  const hint = `if the roll had begun, \`${ownName()} roll ${shellWord(pool)} --watch\` shows it`;
  return new CliError(exitCode.failed, `${error.message}; ${hint}`, error.details);
}

function noSuccessor({ pool, roll_id }: RollView): CliError {
  const goesOn = `${roll_id} goes on when the next one starts: \`${ownName()} roll ${shellWord(pool)} --watch\` shows it`;
  return new CliError(
    exitCode.noAgent,
    `pool ${pool}: the agent has ended, and no other answers after ${waitsForAgentMs / 60_000} minutes; ${goesOn}`,
  );
}

function noteLoss(seen: RollView, { json }: RollOptions): void {
  if (json === true) return;
  if (process.stdout.isTTY) printInPlace(line(seen), true);
  printError(`the agent has ended; ${seen.roll_id} goes on with the next one; waiting for it`);
}

/** Refuses 0, because the agent would take it as the default. */
function failuresMax(text: string): number {
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text);
  throw new CliError(exitCode.usage, `--max-failures: expected a whole number from 1, got "${text}"`);
}

/** Overwrites a single line on a terminal, otherwise prints one line per change. */
function show(view: RollView, { json }: RollOptions): void {
  if (json === true) return printJson(view);
  if (!process.stdout.isTTY) return print(line(view));
  printInPlace(line(view), !isOpen(view));
}

function isOpen({ state }: RollView): boolean {
  return ['running', 'paused'].includes(enumLabel(state));
}

function line(view: RollView): string {
  const share = view.total === 0 ? 1 : view.replaced / view.total;
  const full = Math.round(share * barWidth);
  const bar = `${'#'.repeat(full)}${'.'.repeat(barWidth - full)}`;
  const failures = view.failures === 0 ? '' : `, ${view.failures} failed`;
  // Shows only the first line of a failure, since this line may be overwritten; the full text follows with the error.
  const why = view.message === '' ? '' : `: ${shortLine(withoutLastLines(view.message).split('\n', 1)[0] ?? '')}`;
  const done = `${view.replaced} of ${view.total} replaced, ${view.replacing} in progress${failures}`;
  return `${view.pool} [${bar}] ${done} (${enumLabel(view.state)}${why})`;
}
