import type { Server, UntypedServiceImplementation } from '@grpc/grpc-js';
import { status as code } from '@grpc/grpc-js';
import { failedStatus } from './error-details.ts';
import type { Health, ServingStatus } from './health.ts';
import { createHealth } from './health.ts';
import { services, UnreadableMessage } from './proto.ts';
import { addReflection } from './reflection.ts';

/** What grpc.health.v1 reports. At first the node serves, and no pool is known. */
export interface ReportedHealth extends Pick<Health, 'leave'> {
  /** Sets the status of the whole node, of Execution and of Control. */
  setNode(status: ServingStatus): void;
  setPool(pool: string, status: ServingStatus): void;
  removePool(pool: string): void;
}

const nodeServices = ['', 'pitwarden.v1.Execution', 'pitwarden.v1.Control'] as const;

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
): ReportedHealth {
  server.addService(services.Execution, execution);
  server.addService(services.Control, refuseUnreadable(control));
  const health = createHealth();
  const setNode = (status: ServingStatus): void => {
    for (const name of nodeServices) health.set(name, status);
  };
  setNode('SERVING');
  server.addService(services.Health, refuseUnreadable(health.service));
  addReflection(server);
  return {
    setNode,
    setPool: (pool, status) => health.set(poolService(pool), status),
    removePool: (pool) => health.remove(poolService(pool)),
    leave: health.leave,
  };
}

/** Answers requests that could not be decoded with INVALID_ARGUMENT. The methods of the service take one message each. */
function refuseUnreadable(service: UntypedServiceImplementation): UntypedServiceImplementation {
  const refuse =
    (handle: OneMessageHandle): OneMessageHandle =>
    (call, callback) => {
      if (!(call.request instanceof UnreadableMessage)) return handle(call, callback);
      const refused = failedStatus(code.INVALID_ARGUMENT, call.request.problem, 'INVALID_REQUEST');
      // A method that answers with a stream has no callback.
      if (callback === undefined) call.emit('error', refused);
      else callback(refused);
    };
  return Object.fromEntries(
    Object.entries(service).map(([name, handle]) => [name, refuse(handle as unknown as OneMessageHandle)]),
  );
}

type OneMessageHandle = (
  call: { readonly request: object; emit(event: 'error', refused: object): unknown },
  callback?: (refused: object) => void,
) => void;

/** The name by which callers ask for the health of a pool. */
function poolService(pool: string): string {
  return `pitwarden.pool.${pool}`;
}
