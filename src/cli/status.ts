import { withAgent } from './connect.ts';
import { excerpt } from './excerpt.ts';
import { listPools } from './lists.ts';
import { print, printJson } from './print.ts';
import { age, enumLabel, table } from './table.ts';
import type { NodeView, PoolView } from './views.ts';

/** Shows the node in one line, its pools in a table, and their problems. */
export async function status(options: { readonly socket?: string; readonly json?: boolean }): Promise<void> {
  const { node, pools } = await withAgent(options.socket, async (agent) => ({
    node: await agent.call<NodeView>('Control', 'GetNode', {}),
    pools: await listPools(agent),
  }));
  if (options.json === true) return printJson({ node, pools });
  const up = age(node.started_at_ms, Date.now());
  print(`node ${node.node_id}  ${enumLabel(node.state)}  pitwarden ${node.version}  pid ${node.pid}  up ${up}`);
  if (node.managed_by !== '') {
    const { managed_by, cluster_uid, epoch, generation } = node;
    print(`managed by ${managed_by} (cluster ${cluster_uid}, epoch ${epoch}, generation ${generation})`);
  }
  if (node.drift !== '') print(`drift from the intent: ${node.drift}`);
  for (const { pool, drift } of pools) if (drift !== '') print(`drift from the intent: pool ${pool}: ${drift}`);
  for (const warning of node.warnings) print(`warning: ${warning}`);
  if (node.ledger_error !== '') print(excerpt(`no worker can be started: ${node.ledger_error}`));
  if (node.restart_needed.length > 0)
    print(`changed, and in effect with the agent's next start: ${node.restart_needed.join(', ')}`);
  if (node.config_error !== '') print(excerpt(`last reload refused: ${node.config_error}`));
  print('');
  print(table(headings, pools.map(row)));
  const troubles = pools.flatMap(troublesOf);
  for (const trouble of troubles.slice(0, troublesMax)) print(`\n${excerpt(trouble)}`);
  const left = troubles.length - troublesMax;
  if (left > 0) print(`\n… and ${left} more problems of pools; --json shows all of them in full`);
}

/** Maximum number of problems shown: that many broken pools have a common cause. */
const troublesMax = 20;

function troublesOf({ pool, quarantine, waiting_slots, last_failure, workers_ready, size }: PoolView): string[] {
  return [
    ...(quarantine === '' ? [] : [`${pool}: its last good config is kept: ${quarantine}`]),
    ...(waiting_slots === '' ? [] : [`${pool}: ${waiting_slots}`]),
    ...(last_failure === '' || workers_ready >= size ? [] : [`${pool}: last failure: ${last_failure}`]),
  ];
}

const headings = [
  'POOL',
  'STATE',
  'READY',
  'STARTING',
  'DRAINING',
  'STOPPING',
  'QUEUED',
  'IN FLIGHT',
  'DONE',
  'FAILED',
];

function row(pool: PoolView): (string | number)[] {
  const state = pool.slots_backing_off > 0 ? `${enumLabel(pool.state)}, backing off` : enumLabel(pool.state);
  return [
    pool.pool,
    state,
    `${pool.workers_ready}/${pool.size}`,
    pool.workers_starting,
    pool.workers_draining,
    pool.workers_stopping,
    pool.queued,
    pool.in_flight,
    pool.requests_completed,
    pool.requests_failed,
  ];
}
