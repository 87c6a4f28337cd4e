import { takeFitting } from './paging.ts';
import { planView } from './plan-view.ts';
import { refuseWhenStopping } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';

/** Reads the configuration file again, and applies it unless that is only a trial or the file has problems. */
export async function reloadConfig(source: ControlSource, request: ControlRequest): Promise<object> {
  refuseWhenStopping(source);
  const isTrial = request['dry_run'] === true;
  const outcome = isTrial ? await source.reload.plan() : await source.reload.apply();
  const { revision } = source.state();
  const about = { config_path: source.node().configPath, revision };
  if (!outcome.ok)
    return { ...about, problems: takeFitting(outcome.problems, (problem) => problem).views, applied: false };
  const { plan, restartNeeded } = outcome;
  return { ...about, problems: [], plan: planView(plan), restart_needed: restartNeeded, applied: !isTrial };
}
