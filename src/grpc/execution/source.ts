import type { Dispatch } from '../../dispatch/dispatch.ts';

export interface ExecutionSource {
  readonly dispatch: Dispatch;
  nowMs(): number;
  toMonotonicMs(unixMs: number): number;
  newRequestId(): string;
  /** Larger payloads are refused, of requests and of results. */
  readonly payloadMaxBytes: number;
  /** Bytes of answers that one connection may leave unread. */
  readonly unreadMaxBytes: number;
  /** Aborted when the agent goes: streams of requests take no more of them, and end. */
  readonly leaving: AbortSignal;
}

/** ExecuteRequest as it comes off the wire. */
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
