import type { Dispatch } from '../../dispatch/dispatch.ts';

export interface ExecutionSource {
  readonly dispatch: Dispatch;
  nowMs(): number;
  toMonotonicMs(unixMs: number): number;
  newRequestId(): string;
  /** Larger payloads of requests and results are refused. */
  readonly payloadMaxBytes: number;
  /** How many bytes of answers one connection may leave unread. */
  readonly unreadMaxBytes: number;
  /** Aborted when the agent shuts down. Submit streams then take no more requests, and end. */
  readonly leaving: AbortSignal;
}

/** ExecuteRequest of execution.proto. */
export interface ExecuteMessage {
  readonly pool: string;
  readonly command: string;
  readonly payload: Buffer;
  readonly content_type: string;
  readonly request_id: string;
  readonly session_id: string;
  readonly idempotent: boolean;
  readonly progress: boolean;
}

export interface SubmitMessage {
  readonly items: readonly { readonly request: ExecuteMessage | null; readonly timeout_ms: number }[];
  readonly cancel_request_ids: readonly string[];
}
