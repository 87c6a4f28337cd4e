import { connect } from 'node:net';
import { resolve } from 'node:path';
import type { CallOptions, Client, ClientReadableStream, ClientUnaryCall, ServiceError } from '@grpc/grpc-js';
import { credentials, Metadata, status } from '@grpc/grpc-js';
import { socketPathMaxBytes } from '../domain/socket-path.ts';
import { clients } from '../grpc/proto.ts';
import { fromMetadata } from '../grpc/status.ts';
import { pathOfUnixAddress } from '../grpc/unix-address.ts';
import { socketProblem, whoMayConnect } from '../os/storage/socket-trust.ts';
import { defaultSocketPath } from './environment.ts';
import { CliError, exitCode } from './exit.ts';
import { ownName } from './own-name.ts';

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

interface AgentSocket {
  readonly path: string;
  /** Whether the user named the path; otherwise it is the default. */
  readonly named: boolean;
}

function agentSocket(flag: string | undefined): AgentSocket {
  const named = flag ?? process.env['PITWARDEN_SOCKET'] ?? '';
  if (named === '') return { path: defaultSocketPath(), named: false };
  return { path: resolve(pathOfUnixAddress(named) ?? named), named: true };
}

/** Connects, or fails with a message that no agent runs there. */
export async function connectAgent(flag: string | undefined): Promise<AgentConnection> {
  const socket = agentSocket(flag);
  checkSocket(socket);
  const { path } = socket;
  await probe(path);
  const open = new Map<Service, Client>();
  const clientOf = (service: Service): Client => {
    let client = open.get(service);
    if (client === undefined) {
      client = new clients[service](`unix:${path}`, credentials.createInsecure(), {
        'grpc.max_receive_message_length': -1,
        'grpc.max_send_message_length': -1,
        // An agent on this machine is usually back quickly.
        'grpc.initial_reconnect_backoff_ms': 50,
        'grpc.max_reconnect_backoff_ms': 500,
      });
      open.set(service, client);
    }
    return client;
  };
  const methodOf = <M>(service: Service, method: string): M => {
    const client = clientOf(service) as unknown as Record<string, (...args: unknown[]) => unknown>;
    return client[method]?.bind(client) as M;
  };
  return {
    call: <T>(service: Service, method: string, request: object, options: CallOptions = {}, signal?: AbortSignal) =>
      new Promise<T>((done, fail) => {
        const deadline = service === 'Control' ? Date.now() + controlTimeoutMs : Number.POSITIVE_INFINITY;
        const withDeadline = { deadline, ...options };
        const call = methodOf<Unary>(service, method)(request, new Metadata(), withDeadline, (error, answer) => {
          signal?.removeEventListener('abort', cancel);
          if (error === null) done(answer as T);
          else fail(failure(error));
        });
        const cancel = (): void => call.cancel();
        signal?.addEventListener('abort', cancel);
        if (signal?.aborted === true) cancel();
      }),
    stream: async function* <T>(
      service: Service,
      method: string,
      request: object,
      options: CallOptions = {},
      signal?: AbortSignal,
    ) {
      const call = methodOf<Streaming>(service, method)(request, new Metadata(), options);
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

/**
 * Throws if the socket must not be dialled, or cannot be: Node silently truncates long paths, and grpc-js does not
 * accept line breaks.
 */
function checkSocket({ path, named }: AgentSocket): void {
  const bytes = Buffer.byteLength(path);
  if (bytes > socketPathMaxBytes || /[\n\r\u2028\u2029]/.test(path)) {
    const wanted = `expected a socket's path of at most ${socketPathMaxBytes} bytes and without line breaks, got ${bytes}`;
    throw new CliError(exitCode.usage, `${path}: ${wanted} bytes; name it by a symbolic link with --socket PATH`);
  }
  const problem = socketProblem(path, named);
  if (problem !== undefined) throw new CliError(exitCode.noAgent, problem);
}

/** Checks that something listens, because gRPC's own message would not help the user. */
function probe(path: string): Promise<void> {
  return new Promise((done, fail) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      done();
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => {
      fail(new CliError(exitCode.noAgent, `${path}: ${code === 'EACCES' ? noPermission(path) : noAgent(code)}`));
    });
  });
}

function noAgent(code: string | undefined): string {
  const start = `start one with \`${ownName()} agent --config FILE\``;
  return `no agent runs there (${code}); ${start}, or name its socket with --socket PATH`;
}

function noPermission(path: string): string {
  const remedy =
    "set socket_group in the agent's configuration to a group of this user (under systemd: SocketGroup= of the socket)";
  return `this user may not connect to it (EACCES): ${whoMayConnect(path)}; ${remedy}`;
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
