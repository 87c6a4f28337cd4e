import { withAgent } from './connect.ts';
import { CliError, exitCode } from './exit.ts';
import { print, printInPlace, printJson } from './print.ts';
import { word } from './table.ts';
import type { RollView } from './views.ts';

export interface RollOptions {
  readonly socket?: string;
  readonly json?: boolean;
  readonly maxFailures?: string;
  readonly pause?: boolean;
  readonly resume?: boolean;
  readonly abort?: boolean;
}

const barWidth = 30;

/** Replaces all workers of a pool and shows how far it is; Ctrl-C leaves the roll running. */
export async function roll(pool: string, options: RollOptions): Promise<void> {
  const changes = (['pause', 'resume', 'abort'] as const).filter((name) => options[name] === true);
  if (changes.length > 1) throw new CliError(exitCode.usage, 'expected one of --pause, --resume and --abort');
  const [change] = changes;
  if (change !== undefined) {
    const method = { pause: 'PauseRoll', resume: 'ResumeRoll', abort: 'AbortRoll' }[change];
    const view = await withAgent(options.socket, (agent) => agent.call<RollView>('Control', method, { pool }));
    if (options.json === true) printJson(view);
    else print(line(view));
    return;
  }
  const max_failures = wholeNumber(options.maxFailures ?? '0');
  const last = await withAgent(options.socket, async (agent) => {
    let view: RollView | undefined;
    for await (view of agent.stream<RollView>('Control', 'RollPool', { pool, max_failures })) show(view, options);
    return view;
  });
  if (last === undefined || word(last.state) === 'done') return;
  throw new CliError(exitCode.failed, `pool ${pool}: the roll ${word(last.state)}: ${last.message}`);
}

function wholeNumber(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new CliError(exitCode.usage, `--max-failures: expected a whole number, got "${text}"`);
}

/** On a terminal one line that changes, elsewhere a line for each change. */
function show(view: RollView, { json }: RollOptions): void {
  if (json === true) return printJson(view);
  if (!process.stdout.isTTY) return print(line(view));
  const ended = !['running', 'paused'].includes(word(view.state));
  printInPlace(line(view), ended);
}

function line(view: RollView): string {
  const share = view.total === 0 ? 1 : view.replaced / view.total;
  const full = Math.round(share * barWidth);
  const bar = `${'#'.repeat(full)}${'.'.repeat(barWidth - full)}`;
  const failures = view.failures === 0 ? '' : `, ${view.failures} failed`;
  const why = view.message === '' ? '' : `: ${view.message}`;
  const done = `${view.replaced} of ${view.total} replaced, ${view.replacing} in progress${failures}`;
  return `${view.pool} [${bar}] ${done} (${word(view.state)}${why})`;
}
