import type { Registry } from 'prom-client';
import { Counter } from 'prom-client';
import type { Outcome } from '../dispatch/dispatch.ts';
import type { BucketCounts } from './pool-histogram.ts';
import { createPoolHistogram } from './pool-histogram.ts';

/** The metrics of requests. Every request updates plain numbers, and a scrape turns them into series. */
export interface RequestMetrics {
  outcome(outcome: Outcome): void;
  addPool(pool: string): void;
  forgetPool(pool: string): void;
}

/** The numbers of one pool. */
interface PoolNumbers {
  /** Requests that ended, indexed by status code. */
  readonly outcomes: number[];
  readonly runTime: BucketCounts;
  readonly queueTime: BucketCounts;
}

/** gRPC status codes as values of the label `outcome`; 0 is a successful answer. */
const outcomes: readonly string[] = [
  'ok',
  'cancelled',
  'unknown',
  'invalid_argument',
  'deadline_exceeded',
  'not_found',
  'already_exists',
  'permission_denied',
  'resource_exhausted',
  'failed_precondition',
  'aborted',
  'out_of_range',
  'unimplemented',
  'internal',
  'unavailable',
  'data_loss',
  'unauthenticated',
];

const unknownOutcome = outcomes.indexOf('unknown');

/** From a quarter of a millisecond, the duration of a trivial command, to the minutes of a long one. */
const requestBuckets = [
  0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
];

export function createRequestMetrics(registry: Registry): RequestMetrics {
  const runTime = createPoolHistogram(
    registry,
    'pitwarden_request_seconds',
    'From sending a request to its end.',
    requestBuckets,
  );
  const queueTime = createPoolHistogram(
    registry,
    'pitwarden_queue_seconds',
    'From the arrival of a request to its sending.',
    requestBuckets,
  );
  const pools = new Map<string, PoolNumbers>();
  const numbersOf = (pool: string): PoolNumbers => {
    let numbers = pools.get(pool);
    if (numbers === undefined) {
      numbers = { outcomes: outcomes.map(() => 0), runTime: runTime.of(pool), queueTime: queueTime.of(pool) };
      pools.set(pool, numbers);
    }
    return numbers;
  };
  new Counter({
    name: 'pitwarden_requests_total',
    help: 'Requests that ended, by outcome; refused ones too.',
    labelNames: ['pool', 'outcome'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [pool, numbers] of pools) {
        for (const [code, count] of numbers.outcomes.entries()) {
          this.inc({ pool, outcome: outcomes[code] ?? 'unknown' }, count);
        }
      }
    },
  });
  return {
    outcome: ({ pool, code, refused, queuedMs, ranMs }) => {
      const numbers = numbersOf(pool);
      const known = code < outcomes.length ? code : unknownOutcome;
      numbers.outcomes[known] = (numbers.outcomes[known] ?? 0) + 1;
      // A request that was refused at once did not wait: its 0 would make a full queue look short.
      if (!refused) numbers.queueTime.observe(queuedMs / 1000);
      if (ranMs > 0) numbers.runTime.observe(ranMs / 1000);
    },
    addPool: (pool) => void numbersOf(pool),
    forgetPool: (pool) => {
      pools.delete(pool);
      runTime.forget(pool);
      queueTime.forget(pool);
    },
  };
}
