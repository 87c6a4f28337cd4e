import type { CallOptions } from '@grpc/grpc-js';
import type { AgentConnection } from './connect.ts';
import type { ExitView, PoolView, WorkerView } from './views.ts';

/** Reads all pages of a list of Control. */
async function list<T>(agent: AgentConnection, method: string, field: string, request: object, options?: CallOptions) {
  const entries: T[] = [];
  let page_token = '';
  do {
    const page = await agent.call<Record<string, T[]> & { next_page_token: string }>(
      'Control',
      method,
      { ...request, page_token },
      options,
    );
    entries.push(...(page[field] ?? []));
    page_token = page.next_page_token;
  } while (page_token !== '');
  return entries;
}

export const listPools = (agent: AgentConnection, options?: CallOptions): Promise<PoolView[]> =>
  list(agent, 'ListPools', 'pools', {}, options);

export const listWorkers = (agent: AgentConnection, pool = '', options?: CallOptions): Promise<WorkerView[]> =>
  list(agent, 'ListWorkers', 'workers', { pool }, options);

export const listExits = (agent: AgentConnection, pool = ''): Promise<ExitView[]> =>
  list(agent, 'ListExits', 'exits', { pool });
