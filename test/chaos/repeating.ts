import type { Client, ClientDuplexStream, ServiceError } from '@grpc/grpc-js';
import { credentials, status } from '@grpc/grpc-js';
import { pause } from '../../bench/processes.ts';
import type { Random } from '../simulate/random.ts';
import { service } from './agent.ts';

/** Callers who ask again by the same request_id when the connection breaks, as a client should. */
export interface Repeating {
  readonly answered: ReadonlySet<string>;
  /** Times that something was asked again. */
  readonly repeats: number;
  readonly violations: readonly string[];
  open(): number;
  /** No new requests; false: some did not end in time. */
  end(withinMs: number): Promise<boolean>;
}

const unaryCallers = 6;
const streamCallers = 3;
const submitDepth = 16;
const againAfterMs = 10;
const pools = ['p', 'many'] as const;

interface Work {
  readonly id: string;
  readonly request: object;
  readonly items: number;
}

export function startRepeating(socket: string, random: Random): Repeating {
  const client = new (service('Execution'))(`unix:${socket}`, credentials.createInsecure(), {
    'grpc.initial_reconnect_backoff_ms': 20,
    'grpc.max_reconnect_backoff_ms': 100,
  }) as Client;
  const answered = new Set<string>();
  const violations: string[] = [];
  const open = new Set<string>();
  let [next, repeats, ending] = [0, 0, false];

  const draw = (streams: boolean): Work => {
    next += 1;
    const id = `r${next}`;
    const items = streams ? random.int(0, 40) : 0;
    const args = [streams ? items : random.chance(0.5) ? 0 : random.int(1, 40)];
    const request = {
      ...{ pool: random.pick(pools), command: streams ? 'count' : 'work', request_id: id },
      payload: Buffer.from(JSON.stringify(args)),
    };
    open.add(id);
    return { id, request, items };
  };
  const ended = ({ id }: Work, problem: string): void => {
    open.delete(id);
    if (answered.has(id)) violations.push(`request ${id}: expected one answer, got two`);
    answered.add(id);
    if (problem !== '') violations.push(`request ${id}: ${problem}`);
  };
  const isLost = (error: ServiceError): boolean =>
    error.code === status.UNAVAILABLE && error.metadata?.get('pitwarden-error-bin').length === 0;
  const methods = client as unknown as Record<string, (...args: unknown[]) => never>;

  const untilAnswered = async (work: Work, ask: (work: Work) => Promise<string>): Promise<void> => {
    for (;;) {
      try {
        return ended(work, await ask(work));
      } catch (error) {
        if (!isLost(error as ServiceError)) return ended(work, `expected an answer, got ${(error as Error).message}`);
      }
      repeats += 1;
      await pause(againAfterMs);
    }
  };
  const caller = async (streams: boolean): Promise<void> => {
    while (!ending) await untilAnswered(draw(streams), streams ? stream : unary);
  };
  const unary = (work: Work): Promise<string> =>
    new Promise((resolve, reject) => {
      methods['Execute']?.call(client, work.request, (error: ServiceError | null, answer: { payload: Buffer }) => {
        if (error !== null) reject(error);
        else resolve(judge(work, String(answer.payload)));
      });
    });
  const stream = async (work: Work): Promise<string> => {
    const got: number[] = [];
    const call = methods['ExecuteStream']?.call(client, work.request) as unknown as AsyncIterable<{ payload: Buffer }>;
    for await (const { payload } of call) got.push(JSON.parse(String(payload)) as number);
    const whole = got.length === work.items && got.every((value, index) => value === index);
    return whole ? '' : `expected 0 to ${work.items - 1}, got ${got.join(' ')}`;
  };
  const judge = ({ id }: Work, payload: string): string =>
    payload === JSON.stringify(id) ? '' : `expected its own answer, got ${payload.slice(0, 80)}`;

  /** The requests of the present Submit stream. All of them are asked again on the next one. */
  const onStream = new Map<string, Work>();
  const submit = (): void => {
    const call = methods['Submit']?.call(client) as unknown as ClientDuplexStream<object, { results: Result[] }>;
    call.on('data', ({ results }) => {
      for (const { request_id: id, response, error } of results) {
        const work = onStream.get(id);
        if (work === undefined) {
          violations.push(`request ${id}: an answer on Submit that nobody asked for`);
          continue;
        }
        onStream.delete(id);
        if (response) ended(work, judge(work, String(response.payload)));
        else ended(work, `expected an answer, got ${error?.message}`);
      }
      fill(call);
    });
    call.on('error', (error: ServiceError) => {
      if (ending && onStream.size === 0) return;
      if (!isLost(error)) violations.push(`Submit: expected its connection alone to break, got ${error.message}`);
      repeats += onStream.size;
      setTimeout(submit, againAfterMs);
    });
    if (onStream.size > 0) call.write({ items: [...onStream.values()].map(({ request }) => ({ request })) });
    fill(call);
  };
  const fill = (call: ClientDuplexStream<object, unknown>): void => {
    const items: object[] = [];
    while (!ending && onStream.size < submitDepth) {
      const work = draw(false);
      onStream.set(work.id, work);
      items.push({ request: work.request });
    }
    if (items.length > 0) call.write({ items });
    else if (ending && onStream.size === 0) call.end();
  };
  for (let i = 0; i < unaryCallers; i += 1) void caller(false);
  for (let i = 0; i < streamCallers; i += 1) void caller(true);
  submit();
  return {
    answered,
    violations,
    get repeats() {
      return repeats;
    },
    open: () => open.size,
    end: async (withinMs) => {
      ending = true;
      const endsAtMs = performance.now() + withinMs;
      while (open.size > 0 && performance.now() < endsAtMs) await pause(20);
      client.close();
      return open.size === 0;
    },
  };
}

interface Result {
  readonly request_id: string;
  readonly response?: { readonly payload: Buffer } | null;
  readonly error?: { readonly message: string } | null;
}
