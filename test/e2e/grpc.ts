import type {
  ChannelCredentials,
  ChannelOptions,
  ClientDuplexStream,
  ClientReadableStream,
  ServiceError,
} from '@grpc/grpc-js';
import { credentials, Metadata } from '@grpc/grpc-js';
import { clients } from '../../src/grpc/proto.ts';
import type { ErrorView } from '../../src/grpc/status.ts';
import { fromMetadata } from '../../src/grpc/status.ts';

export interface Answer {
  readonly value: unknown;
  readonly workerId: string;
}

export class Failure extends Error {
  readonly code: number;
  readonly told: ErrorView | undefined;
  constructor(error: ServiceError) {
    super(error.details);
    this.code = error.code;
    this.told = fromMetadata(error.metadata);
  }
}

interface Response {
  readonly payload: Buffer;
  readonly content_type: string;
  readonly worker_id: string;
}

/** WatchResponse of control.proto. One of the changes is set. */
export interface WatchView {
  readonly revision: number;
  readonly agent_id: string;
  readonly more: boolean;
  readonly snapshot?: {
    node: Record<string, unknown>;
    pools: { pool: string }[];
    workers: { worker_id: string }[];
  };
  readonly pool?: { pool: string };
  readonly worker?: { worker_id: string };
  readonly worker_gone?: string;
  readonly pool_gone?: string;
  readonly node?: Record<string, unknown>;
  readonly event?: { kind: string; message: string };
  readonly bookmark?: object;
}

/** ReportResponse of control.proto, as far as the tests use it. 64-bit integers are numbers. */
export interface ReportView {
  readonly agent_id: string;
  readonly boot_id: string;
  readonly node_id: string;
  readonly revision: number;
  readonly sequence: number;
  readonly at_ms: number;
  readonly loop_lag_ms: number;
  readonly state: string;
  readonly more: boolean;
  readonly pools: readonly PoolReportView[];
}

/** StreamTelemetryResponse of control.proto. 64-bit integers are numbers. */
export interface TelemetryView {
  readonly agent_id: string;
  readonly sequence: number;
  readonly at_ms: number;
  readonly measurements: readonly {
    readonly pool: string;
    readonly worker_id: string;
    readonly name: string;
    readonly kind: string;
    readonly labels: readonly { readonly name: string; readonly value: string }[];
    readonly count: number;
    readonly value: number;
    readonly buckets: readonly number[];
  }[];
  readonly spans: readonly {
    readonly pool: string;
    readonly worker_id: string;
    readonly name: string;
    readonly labels: readonly { readonly name: string; readonly value: string }[];
    readonly request_id: string;
    readonly began_at_ms: number;
    readonly duration_us: number;
    readonly error_type: string;
  }[];
  readonly measurements_dropped: number;
  readonly spans_left_out: number;
}

export interface PoolReportView {
  readonly pool: string;
  readonly open: boolean;
  readonly size: number;
  readonly workers_ready: number;
  readonly workers_well: number;
  readonly workers_slow: number;
  readonly workers_busy: number;
  readonly workers_hung: number;
  readonly missed_pings_max: number;
  readonly ping_round_trip_max_ms: number;
  readonly requests_completed: number;
  readonly requests_failed: number;
  /** Absent: there was no evidence yet. */
  readonly last_evidence_age_ms?: number;
  readonly in_flight: number;
  readonly capacity: number;
  readonly queued: number;
  readonly oldest_queued_ms: number;
  readonly oldest_running_ms: number;
  readonly slots_backing_off: number;
  readonly quarantined: boolean;
  readonly exits: readonly { readonly reason: string; readonly count: number }[];
  readonly memory_bytes: number;
  readonly worker_memory_max_bytes: number;
}

type Callback = (error: ServiceError | null, response: Response) => void;

/** Plain grpc-js calls to an agent's socket or HOST:PORT. Control is called at the `control.sock` beside an `agent.sock`. */
export function connect(
  target: string,
  options: ChannelOptions = {},
  secured: ChannelCredentials = credentials.createInsecure(),
) {
  const address = target.startsWith('/') ? `unix:${target}` : target;
  const execution = new clients.Execution(address, secured, options);
  const control = new clients.Control(address.replace(/\/agent\.sock$/, '/control.sock'), secured, options);
  const controls = control as unknown as Record<string, (...args: unknown[]) => unknown>;
  const methods = execution as unknown as Record<string, (...args: unknown[]) => never>;
  const message = (pool: string, command: string, args: unknown, more: object) => ({
    pool,
    command,
    payload: Buffer.from(JSON.stringify(args)),
    ...more,
  });
  return {
    close: () => {
      execution.close();
      control.close();
    },
    execute: (
      pool: string,
      command: string,
      args: unknown = [],
      more: object = {},
      timeoutMs = 60_000,
    ): Promise<Answer> =>
      new Promise((resolve, reject) => {
        const done: Callback = (error, response) =>
          error === null ? resolve(answer(response)) : reject(new Failure(error));
        const options = { deadline: Date.now() + timeoutMs };
        methods['Execute']?.(message(pool, command, args, more), new Metadata(), options, done);
      }),
    stream: (pool: string, command: string, args: unknown = [], more: object = {}): ClientReadableStream<Response> =>
      methods['ExecuteStream']?.(message(pool, command, args, more)) as never,
    watch: (request: object = {}): ClientReadableStream<WatchView> =>
      controls['Watch']?.call(control, request) as never,
    report: (request: object = {}): ClientReadableStream<ReportView> =>
      controls['Report']?.call(control, request) as never,
    telemetry: (request: object = {}): ClientReadableStream<TelemetryView> =>
      controls['StreamTelemetry']?.call(control, request) as never,
    roll: (request: object): ClientReadableStream<object> => controls['RollPool']?.call(control, request) as never,
    submit: (): ClientDuplexStream<object, object> => methods['Submit']?.() as never,
    /** A call of Control, by default without arguments. */
    control: <T>(method: string, request: object = {}): Promise<T> =>
      new Promise((resolve, reject) => {
        const call = controls[method];
        const done = (error: ServiceError | null, answer: T) =>
          error === null ? resolve(answer) : reject(new Failure(error));
        call?.call(control, request, new Metadata(), { deadline: Date.now() + 10_000 }, done);
      }),
  };
}

/** A connection with a retry policy for every status that may be listed. */
export function retrying(target: string): TestClient {
  const retryPolicy = {
    ...{ maxAttempts: 5, initialBackoff: '0.05s', maxBackoff: '0.2s', backoffMultiplier: 2 },
    retryableStatusCodes: ['UNAVAILABLE', 'RESOURCE_EXHAUSTED', 'ABORTED', 'UNKNOWN', 'INTERNAL'],
  };
  return connect(target, { 'grpc.service_config': JSON.stringify({ methodConfig: [{ name: [{}], retryPolicy }] }) });
}

export type TestClient = ReturnType<typeof connect>;

function answer(response: Response): Answer {
  return { value: JSON.parse(response.payload.toString()) as unknown, workerId: response.worker_id };
}
