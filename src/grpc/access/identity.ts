import type { Role } from './roles.ts';
import { roles } from './roles.ts';

/** Who made a call, and what that caller may do. */
export interface Identity {
  /** As error messages name it. */
  readonly name: string;
  readonly roles: ReadonlySet<Role>;
}

/** Any process of this host. `mayControl`: `listen_insecure_control` is set. */
export function insecureTcp(mayControl: boolean): Identity {
  return { name: 'a process that connected over TCP without TLS', roles: new Set(mayControl ? roles : ['caller']) };
}
