import type { CallOptions, Client, ClientReadableStream, ClientUnaryCall, ServiceError } from '@grpc/grpc-js';
import { credentials, Metadata, status } from '@grpc/grpc-js';
import { clients } from '../grpc/proto.ts';
import { fromMetadata } from '../grpc/status.ts';
import { CliError, exitCode } from './exit.ts';
import { socketsOf } from './sockets.ts';

/** A connection to the agent's API for one command. */
export interface AgentConnection {
  /** Aborting the signal cancels the call at the agent, which closing the connection does not. */
  call<T>(service: Service, method: string, request: object, options?: CallOptions, signal?: AbortSignal): Promise<T>;
  stream<T>(
    service: Service,
    method: string,
    request: object,
    options?: CallOptions,
    signal?: AbortSignal,
  ): AsyncIterable<T>;
  close(): void;
}

type Service = 'Execution' | 'Control';
type Unary = (
  request: object,
  metadata: Metadata,
  options: CallOptions,
  done: (error: ServiceError | null, answer: unknown) => void,
) => ClientUnaryCall;
type Streaming = (request: object, metadata: Metadata, options: CallOptions) => ClientReadableStream<unknown>;

/** The connection was lost before the answer: the request may be repeated with the same request_id. */
export class ConnectionLost extends CliError {}

/** How long the agent may take to answer a call of Control. */
const controlTimeoutMs = 10_000;

/** One call of a method. */
interface Called {
  readonly service: Service;
  readonly method: string;
  readonly request: object;
  readonly options: CallOptions;
  readonly signal: AbortSignal | undefined;
}

const channelOptions = {
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
  // An agent on this machine is usually back quickly.
  'grpc.initial_reconnect_backoff_ms': 50,
  'grpc.max_reconnect_backoff_ms': 500,
};

/** Connects, or fails with a message that no agent runs there. */
export async function connectAgent(flag: string | undefined): Promise<AgentConnection> {
  const sockets = await socketsOf(flag);
  const open = new Map<string, Client>();
  const methodAt = <M>(path: string, service: Service, method: string): M => {
    const key = `${service} ${path}`;
    const client = open.get(key) ?? new clients[service](`unix:${path}`, credentials.createInsecure(), channelOptions);
    open.set(key, client);
    const methods = client as unknown as Record<string, (...args: unknown[]) => unknown>;
    return methods[method]?.bind(client) as M;
  };
  const callAt = <T>(path: string, { service, method, request, options, signal }: Called) =>
    new Promise<T>((done, fail) => {
      const deadline = service === 'Control' ? Date.now() + controlTimeoutMs : Number.POSITIVE_INFINITY;
      const withDeadline = { deadline, ...options };
      const call = methodAt<Unary>(path, service, method)(request, new Metadata(), withDeadline, (error, answer) => {
        signal?.removeEventListener('abort', cancel);
        if (error === null) done(answer as T);
        else fail(failure(error));
      });
      const cancel = (): void => call.cancel();
      signal?.addEventListener('abort', cancel);
      if (signal?.aborted === true) cancel();
    });
  const streamAt = async function* <T>(path: string, { service, method, request, options, signal }: Called) {
    const call = methodAt<Streaming>(path, service, method)(request, new Metadata(), options);
    const cancel = (): void => call.cancel();
    signal?.addEventListener('abort', cancel);
    if (signal?.aborted === true) cancel();
    try {
      for await (const message of call) yield message as T;
    } catch (error) {
      throw failure(error as ServiceError);
    } finally {
      signal?.removeEventListener('abort', cancel);
      call.cancel();
    }
  };
  return {
    call: async <T>(
      service: Service,
      method: string,
      request: object,
      options: CallOptions = {},
      signal?: AbortSignal,
    ) => {
      const called = { service, method, request, options, signal };
      const path = await sockets.pathFor(service, method);
      try {
        return await callAt<T>(path, called);
      } catch (error) {
        const other = isDenied(error) ? await sockets.otherThan(path) : undefined;
        if (other === undefined) throw error;
        return callAt<T>(other, called);
      }
    },
    stream: async function* <T>(
      service: Service,
      method: string,
      request: object,
      options: CallOptions = {},
      signal?: AbortSignal,
    ) {
      const called = { service, method, request, options, signal };
      const path = await sockets.pathFor(service, method);
      try {
        yield* streamAt<T>(path, called);
      } catch (error) {
        const other = isDenied(error) ? await sockets.otherThan(path) : undefined;
        if (other === undefined) throw error;
        yield* streamAt<T>(other, called);
      }
    },
    close: () => {
      for (const client of open.values()) client.close();
    },
  };
}

/** Connects, runs `use`, and closes the connection in any case. */
export async function withAgent<T>(flag: string | undefined, use: (agent: AgentConnection) => Promise<T>): Promise<T> {
  const agent = await connectAgent(flag);
  try {
    return await use(agent);
  } finally {
    agent.close();
  }
}

/** The agent has refused the call at this socket, and nothing was done. */
function isDenied(error: unknown): boolean {
  return error instanceof CliError && error.details['status'] === 'PERMISSION_DENIED';
}

/** Without the agent's own error details the error is gRPC's: nobody answered. */
function failure(error: ServiceError): CliError {
  const reported = error.metadata === undefined ? undefined : fromMetadata(error.metadata);
  const word = status[error.code] ?? String(error.code);
  if (reported !== undefined) {
    const traceback = reported.traceback === '' ? '' : `\n${reported.traceback.trimEnd()}`;
    const subject = reported.type === '' ? '' : `${reported.type}: `;
    return new CliError(exitCode.failed, `${word}: ${subject}${reported.message}${traceback}`, {
      status: word,
      ...reported,
    });
  }
  const details = { status: word, message: error.details };
  const Kind = error.code === status.UNAVAILABLE ? ConnectionLost : CliError;
  return new Kind(exitCode.failed, `${word}: ${error.details}`, details);
}
