import { status } from '@grpc/grpc-js';
import { managingIntent } from '../../domain/intent.ts';
import { roles } from '../access/roles.ts';
import type { Caller } from './control-answers.ts';
import { Refusal, text } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';

/** What may be done on a node that a control plane manages. */

/** Someone who has all roles is whoever can connect, and no controller. */
export function isController({ identity }: Caller): boolean {
  return identity?.roles.has('controller') === true && identity.roles.size < roles.length;
}

export function nameOf({ identity }: Caller): string {
  return identity?.name ?? 'a local caller';
}

/**
 * Carries out a call that changes what an intent says. On a managed node only controllers may do that, and others by force, which is
 * recorded. `act` is called in this turn of the event loop.
 */
export async function unlessManaged(
  source: ControlSource,
  request: ControlRequest,
  caller: Caller,
  act: () => object | Promise<object>,
): Promise<object> {
  const intent = managingIntent(source.state().node);
  if (intent === null || isController(caller)) return act();
  const pool = poolOf(source, request);
  if (request['force'] !== true) {
    const { clusterUid, epoch, generation, controller } = intent;
    const by = `${controller} (cluster ${clusterUid}, epoch ${epoch}, generation ${generation})`;
    const there = fleetCommand(caller.method, pool, source.node().nodeId);
    throw new Refusal(
      status.FAILED_PRECONDITION,
      `this node is managed by ${by}: change it there (${there}), or here by force (--force, the field \`force\`), which shows as drift`,
      'NODE_MANAGED',
    );
  }
  const view = await act();
  source.command({ type: 'note-forced', pool, message: `${caller.method} by ${nameOf(caller)}` });
  return view;
}

/** The pool that the request names, or that of its worker; empty: none. */
function poolOf(source: ControlSource, request: ControlRequest): string {
  const { workers, pools } = source.state();
  const pool = workers.get(text(request, 'worker_id'))?.pool ?? text(request, 'pool');
  return pools.has(pool) ? pool : '';
}

function fleetCommand(method: string, pool: string, node: string): string {
  if (method === 'DrainPool' || method === 'DrainNode') return `pitwarden fleet drain ${node}`;
  if (method === 'ResumePool' || method === 'ResumeNode') return `pitwarden fleet uncordon ${node}`;
  return `pitwarden fleet scale ${pool === '' ? 'POOL' : pool} SIZE`;
}
