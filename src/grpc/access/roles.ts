/** What an identity may do. docs/control-plane-tls.md explains the roles to users. */
export const roles = ['viewer', 'operator', 'controller', 'caller'] as const;
export type Role = (typeof roles)[number];

const reads: readonly Role[] = ['viewer', 'operator', 'controller'];
const changes: readonly Role[] = ['operator', 'controller'];
const calls: readonly Role[] = ['caller'];

/**
 * Which roles may call a method of the agent's API: one of them is enough. A method that is not in this table is refused for
 * everybody. Callers at a unix socket have the roles of that socket (socket-access.ts), because its file permissions decide who they
 * are.
 */
export const rolesByMethod: ReadonlyMap<string, readonly Role[]> = new Map([
  ...rows('pitwarden.v1.Execution', calls, ['Execute', 'ExecuteStream', 'Submit']),
  ...rows('pitwarden.v1.Control', reads, [
    ...[
      'GetNode',
      'ListPools',
      'ListWorkers',
      'GetWorker',
      'ListExits',
      'ListEvents',
      'GetRegistry',
      'Explain',
      'Watch',
      'Report',
      'StreamTelemetry',
      'WatchRoll',
    ],
  ]),
  ...rows('pitwarden.v1.Control', changes, [
    ...['ScalePool', 'StartWorker', 'StopWorker', 'DrainWorker', 'RecycleWorker', 'DrainPool', 'ResumePool'],
    ...['RollPool', 'PauseRoll', 'ResumeRoll', 'AbortRoll', 'DrainNode', 'ResumeNode', 'ReloadConfig', 'ReleaseNode'],
  ]),
  // Its epoch decides which leader of a control plane is obeyed.
  ...rows('pitwarden.v1.Control', ['controller'], ['SetDesired']),
  // It ends the agent so that another version of the program takes over, which is no business of a controller.
  ...rows('pitwarden.v1.Control', ['operator'], ['Handover']),
  ...rows('grpc.health.v1.Health', roles, ['Check', 'List', 'Watch']),
  ...rows('grpc.reflection.v1.ServerReflection', roles, ['ServerReflectionInfo']),
  ...rows('grpc.reflection.v1alpha.ServerReflection', roles, ['ServerReflectionInfo']),
]);

/** Whether callers with one of these roles may call the method. */
export function allows(path: string, granted: ReadonlySet<Role>): boolean {
  return rolesByMethod.get(path)?.some((role) => granted.has(role)) ?? false;
}

function rows(service: string, allowed: readonly Role[], methods: readonly string[]): [string, readonly Role[]][] {
  return methods.map((method) => [`/${service}/${method}`, allowed]);
}
