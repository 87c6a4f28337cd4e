import type { Identity } from './identity.ts';
import type { Role } from './roles.ts';
import { allows, roles } from './roles.ts';

/** Who calls at the agent's two unix sockets: `agent.sock` (`socket`) and `control.sock` (`control`). */
export interface SocketAccess {
  readonly socket: Identity;
  readonly control: Identity;
}

/** The roles of callers at `agent.sock`: they may run commands, and read. */
const apiSocketRoles: ReadonlySet<Role> = new Set<Role>(['caller', 'viewer']);

/** Whether callers at `agent.sock` may call the method; otherwise it is for `control.sock`. */
export function isServedAtApiSocket(service: string, method: string): boolean {
  return allows(`/pitwarden.v1.${service}/${method}`, apiSocketRoles);
}

/** File permissions decide who may connect to a socket. `controlSocket`: its path, for error messages. */
export function socketAccess(controlSocket: string): SocketAccess {
  return {
    socket: {
      name: 'a caller at agent.sock',
      roles: apiSocketRoles,
      pools: null,
      remedy: `use control.sock beside it (${controlSocket})`,
    },
    control: { name: 'a caller at control.sock', roles: new Set(roles), pools: null },
  };
}
