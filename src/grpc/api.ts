import type { Server, UntypedServiceImplementation } from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { healthDefinition, packageDefinition, services } from './proto.ts';

const serving = ['', 'pitwarden.v1.Execution', 'pitwarden.v1.Control'] as const;

export interface Api {
  /** Sets the status that grpc.health.v1 reports for the server and both services. */
  setServing(serving: boolean): void;
}

/** Makes calls wait until the agent knows its pools and workers. An earlier answer would say that there are none. */
export function afterStart(
  service: UntypedServiceImplementation,
  started: { readonly promise: Promise<void>; isResolved(): boolean },
): UntypedServiceImplementation {
  const wait =
    (handle: Handle): Handle =>
    (call, ...rest) => {
      if (started.isResolved()) return handle(call, ...rest);
      // A caller that has left meanwhile wants no answer.
      void started.promise.then(() => call.cancelled || handle(call, ...rest));
    };
  return Object.fromEntries(Object.entries(service).map(([name, handle]) => [name, wait(handle as Handle)]));
}

type Handle = (call: { readonly cancelled: boolean }, ...rest: unknown[]) => void;

/** Adds Execution, Control, health and reflection to a server. */
export function addApi(
  server: Server,
  execution: UntypedServiceImplementation,
  control: UntypedServiceImplementation,
): Api {
  server.addService(services.Execution, execution);
  server.addService(services.Control, control);
  const health = new HealthImplementation(Object.fromEntries(serving.map((name) => [name, 'SERVING' as const])));
  health.addToServer(server);
  new ReflectionService(
    { ...packageDefinition, ...healthDefinition },
    { services: ['pitwarden.v1.Execution', 'pitwarden.v1.Control', 'grpc.health.v1.Health'] },
  ).addToServer(server);
  return {
    setServing: (isServing) => {
      for (const name of serving) health.setStatus(name, isServing ? 'SERVING' : 'NOT_SERVING');
    },
  };
}
