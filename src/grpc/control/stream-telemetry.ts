import type { ServerWritableStream } from '@grpc/grpc-js';
import { status } from '@grpc/grpc-js';
import { writerOf } from './control-answers.ts';
import { findPool, Refusal, refusalStatus, text } from './refusals.ts';
import type { ControlRequest, ControlSource } from './source.ts';
import { TelemetryBatch } from './telemetry-batch.ts';
import { endWhenLeaving } from './watch.ts';

/** Calls at once: each may hold a batch of some MiB while its caller does not read. */
export const telemetryStreamsMax = 16;
const namesMax = 100;
const defaultIntervalMs = 1_000;
const [shortestIntervalMs, longestIntervalMs] = [100, 60_000];

type TelemetryCall = ServerWritableStream<ControlRequest, object>;

/** Serves StreamTelemetry for one agent. */
export function telemetryStreams(source: ControlSource): (call: TelemetryCall) => void {
  const open = new Set<TelemetryCall>();
  return (call) => {
    try {
      if (open.size >= telemetryStreamsMax) {
        const expected = `expected at most ${telemetryStreamsMax} calls of StreamTelemetry at once`;
        throw new Refusal(status.RESOURCE_EXHAUSTED, `${expected}: end one, then call again`);
      }
      const follower = new TelemetryFollower(source, call, requestOf(source, call.request));
      open.add(call);
      endWhenLeaving(source, call, () => {
        open.delete(call);
        follower.end();
      });
      follower.start();
    } catch (error) {
      call.emit('error', refusalStatus(error));
    }
  };
}

interface TelemetryRequest {
  readonly pool: string;
  readonly names: readonly string[];
  readonly intervalMs: number;
}

/**
 * One stream. At most one of its messages is unread. Until it is read, what workers report is added up, within the bounds of one
 * message: a caller that does not read loses the times of measurements first, and then measurements.
 */
class TelemetryFollower {
  readonly #source: ControlSource;
  readonly #batch: TelemetryBatch;
  readonly #intervalMs: number;
  readonly #write: ReturnType<typeof writerOf>;
  #sequence = 0;
  #isUnread = false;
  #isOver = false;
  #sentAtMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #unfollow: () => void = () => undefined;

  constructor(source: ControlSource, call: TelemetryCall, { pool, names, intervalMs }: TelemetryRequest) {
    this.#source = source;
    this.#batch = new TelemetryBatch(pool, names);
    this.#intervalMs = intervalMs;
    this.#write = writerOf(call);
  }

  start(): void {
    this.#unfollow = this.#source.followTelemetry((report) => {
      this.#batch.add(report);
      this.#schedule();
    });
    // Tells the caller that it follows from now on.
    this.#send();
  }

  end(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#unfollow();
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#isUnread || this.#isOver || this.#batch.isEmpty) return;
    const waitMs = Math.max(0, this.#sentAtMs + this.#intervalMs - this.#source.nowMs());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#send();
    }, waitMs);
  }

  #send(): void {
    const nowMs = this.#source.nowMs();
    this.#sequence += 1;
    this.#isUnread = true;
    this.#sentAtMs = nowMs;
    const head = { agent_id: this.#source.node().agentId, sequence: this.#sequence };
    const message = { ...head, at_ms: Math.round(this.#source.toUnixMs(nowMs)), ...this.#batch.take() };
    const sent = this.#write(message, () => {
      this.#isUnread = false;
      this.#schedule();
    });
    if (!sent) this.end();
  }
}

function requestOf(source: ControlSource, request: ControlRequest): TelemetryRequest {
  const pool = text(request, 'pool');
  if (pool !== '') findPool(source, pool);
  const names = (request['names'] ?? []) as readonly string[];
  if (names.length > namesMax) {
    throw new Refusal(status.INVALID_ARGUMENT, `names: expected at most ${namesMax}, got ${names.length}`);
  }
  const intervalMs = Number(request['interval_ms'] ?? 0) || defaultIntervalMs;
  if (intervalMs < shortestIntervalMs || intervalMs > longestIntervalMs) {
    const expected = `expected ${shortestIntervalMs} to ${longestIntervalMs}, or 0 for ${defaultIntervalMs}`;
    throw new Refusal(status.INVALID_ARGUMENT, `interval_ms: ${expected}, got ${intervalMs}`);
  }
  return { pool, names, intervalMs };
}
