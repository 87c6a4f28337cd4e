import type { ChangeOptions } from './change.ts';
import { withAgent } from './connect.ts';
import { CliError, exitCode } from './exit.ts';
import { planText } from './plan-text.ts';
import { print, printJson } from './print.ts';
import type { ConfigProblemView, ReloadView } from './views.ts';

/** The agent gives up reading the file after 10 s, and says so. */
const reloadTimeoutMs = 20_000;

/** Makes the agent read its configuration again; `plan`: only shows what that would do. */
export async function reload(options: ChangeOptions & { readonly plan?: boolean }): Promise<void> {
  const dry_run = options.plan === true;
  const view = await withAgent(options.socket, (agent) =>
    agent.call<ReloadView>('Control', 'ReloadConfig', { dry_run }, { deadline: Date.now() + reloadTimeoutMs }),
  );
  if (options.json === true) printJson(view);
  if (view.problems.length > 0) throw new CliError(exitCode.failed, problemsText(view.problems));
  if (options.json === true) return;
  const needed =
    view.restart_needed.length === 0
      ? []
      : [`in effect with the agent's next start: ${view.restart_needed.join(', ')}`];
  const done = dry_run ? [] : [`${view.config_path}: applied`];
  print([...done, planText(view.plan), ...needed].join('\n'));
}

export const plan = (options: ChangeOptions): Promise<void> => reload({ ...options, plan: true });

/** As `check` prints them. */
function problemsText(problems: readonly ConfigProblemView[]): string {
  const lines = problems.map(({ file, line, column, path, message }) => {
    const place = line === 0 ? file : `${file}:${line}:${column}`;
    return path === '' ? `${place}: ${message}` : `${place}: ${path}: ${message}`;
  });
  return ['nothing was changed, because the configuration has problems:', ...lines].join('\n');
}
