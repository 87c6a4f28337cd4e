import type { RequestLink, Resumed } from '../../dispatch/worker.ts';

/** Hello of link.proto. */
export interface WorkerHello {
  readonly protocol: number;
  readonly worker_id: string;
  readonly token: string;
  readonly pid: number;
  readonly commands: readonly {
    readonly name: string;
    readonly streams: boolean;
    readonly summary: string;
    readonly is_async: boolean;
  }[];
  readonly sdk_version: string;
  readonly python_version: string;
  readonly marks_begun: boolean;
  readonly writes_stacks: boolean;
  readonly interpreter_ms: number;
  readonly import_ms: number;
  readonly hooks_ms: number;
  /** Null: the worker dials for the first time. */
  readonly resumed: (Resumed & { readonly away_ms: number }) | null;
}

/** WorkerFrame of link.proto. */
export interface WorkerFrame {
  readonly hello: WorkerHello | null;
  readonly pong: {
    readonly sequence: number;
    readonly in_flight: number;
    readonly oldest_request_ms: number;
    readonly loop_lag_ms: number;
  } | null;
  readonly leaving: boolean;
  readonly leaving_reason: string;
  readonly replayed: readonly number[];
  readonly returned: readonly number[];
  readonly chunks: readonly { readonly id: number; readonly payload: Buffer; content_type: string }[];
  readonly results: readonly LinkResult[];
  readonly progress: readonly { readonly id: number; readonly fraction: number; readonly message: string }[];
  /** A serialized Telemetry; empty: none. */
  readonly telemetry: Buffer;
}

interface LinkResult {
  readonly id: number;
  readonly payload: Buffer;
  content_type: string;
  readonly error: { code: number; type: string; message: string; traceback: string } | null;
  readonly ran_us: number;
}

/** The link to a worker that has proven who it is. */
export interface ProvenLink extends RequestLink {
  ping(sequence: number): void;
  drain(): void;
  /** Replaces the limits of the welcome. */
  limit(limits: LinkLimits): void;
  stop(graceMs: number): void;
  close(): void;
}

/** Limits of link.proto. */
export interface LinkLimits {
  readonly orphan_timeout_ms: number;
  readonly drain_timeout_ms: number;
  readonly keep_results: number;
  readonly keep_bytes: number;
  readonly keep_ms: number;
  readonly tasks: number;
  readonly telemetry_bytes_per_s: number;
}

/** Welcome of link.proto, without the protocol. */
export interface WelcomeLimits extends LinkLimits {
  readonly concurrency: number;
  readonly payload_max_bytes: number;
}

/** Why a hello is refused; values of the label `reason` of pitwarden_link_refusals_total. */
export const refusalReasons = ['protocol', 'unknown_worker', 'wrong_token', 'already_attached'] as const;
export type RefusalReason = (typeof refusalReasons)[number];

export interface LinkRefusal {
  readonly reason: RefusalReason;
  readonly message: string;
  /** Set when the hello named a worker of this agent. */
  readonly worker?: { readonly id: string; readonly pool: string };
}

/** The fields with which a worker proves who it is. */
export type HelloClaim = Pick<WorkerHello, 'worker_id' | 'token'>;

export type Authentication =
  | { readonly ok: true; readonly welcome: WelcomeLimits }
  | ({ readonly ok: false } & LinkRefusal);

export interface WorkerLinkSource {
  /** Whether the worker may attach. If it may, its token is used up. */
  authenticate(hello: WorkerHello): Authentication;
  /** Checks a hello of which only the claim has arrived. Its token is not used up. Undefined: one of our workers sends it. */
  check(claim: HelloClaim): LinkRefusal | undefined;
  attached(hello: WorkerHello, link: ProvenLink): void;
  frame(workerId: string, frame: WorkerFrame, link: ProvenLink): void;
  /** These requests were cancelled before they were written, so the worker will never know of them. */
  unsent(workerId: string, linkIds: readonly number[], link: ProvenLink): void;
  closed(workerId: string, link: ProvenLink): void;
  refused(refusal: LinkRefusal): void;
}
