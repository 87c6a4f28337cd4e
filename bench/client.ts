// Our own load, for what h2load cannot speak: node client.js '{"kind":"submit",…}'; prints one line of JSON.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect as http2Connect } from 'node:http2';
import { createConnection } from 'node:net';
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { Client, credentials } from '@grpc/grpc-js';
import type { Type } from 'protobufjs';
import { grpcFrame } from './h2load.ts';
import { ExecuteRequest, ExecuteResponse, encodeAsk, executePath, SubmitRequest, SubmitResponse } from './messages.ts';
import { percentile } from './statistics.ts';

export interface ClientLoad {
  readonly kind: 'submit' | 'stream' | 'socket' | 'execute';
  /** Path of a unix socket; for `execute` also a URL of node:http2. */
  readonly socket: string;
  /** For `execute` at an https URL: files in PEM. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string };
  readonly pool: string;
  readonly command: string;
  readonly payloadBytes: number;
  readonly inFlight: number;
  readonly seconds: number;
  /** Ends after so many; 0: after `seconds`. */
  readonly requests?: number;
}

interface Counted {
  requests: number;
  seconds: number;
  times: number[];
}

const windowBytes = 16 * 1024 * 1024;
/** Payloads in one message of asks. */
const askBytes = 4 * 1024 * 1024;
/** Request ids are numbers of nine digits. No run repeats those of an earlier one, which the agent may still know. */
const firstId = String(100_000_000 + Math.floor(Math.random() * 800_000_000));
/** Times of at most so many requests are kept. */
const timesMax = 200_000;

function newClient(): Client {
  return new Client(`unix:${load.socket}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
    'grpc-node.flow_control_window': windowBytes,
  });
}

function encode(type: Type): (message: object) => Buffer {
  return (message) => type.encode(message).finish() as Buffer;
}

function decode(type: Type): (bytes: Buffer) => Record<string, unknown> {
  return (bytes) => type.decode(bytes) as unknown as Record<string, unknown>;
}

/** Keeps `inFlight` requests on one Submit stream; what answers in one message is asked anew in one. */
function submit({ pool, command, payloadBytes, inFlight, seconds: wanted, requests: limit = 0 }: ClientLoad) {
  const call = newClient().makeBidiStreamRequest(
    '/pitwarden.v1.Execution/Submit',
    (message: Buffer) => message,
    decode(SubmitResponse),
  ) as ClientDuplexStream<Buffer, Record<string, unknown>>;
  const request = ExecuteRequest.decode(encodeAsk({ pool, command, payloadBytes })) as unknown as object;
  // Coded once, for what the load costs is missing to those it is for: messages of repeated fields may be strung together.
  const coded = SubmitRequest.encode({ items: [{ request: { ...request, request_id: firstId } }] }).finish() as Buffer;
  const idOffset = coded.lastIndexOf(firstId);
  const sentAt = new Map<string, number>();
  const found: Counted = { requests: 0, seconds: 0, times: [] };
  const startedAtMs = performance.now();
  let nextId = Number(firstId);
  // Large payloads in several messages, for one has its limit.
  const itemsMax = Math.max(1, Math.floor(askBytes / payloadBytes));
  const ask = (count: number): void => {
    if (count > itemsMax) ask(count - itemsMax);
    const message = Buffer.allocUnsafe(coded.length * Math.min(count, itemsMax));
    const nowMs = performance.now();
    for (let offset = 0; offset < message.length; offset += coded.length) {
      const requestId = String(nextId);
      nextId += 1;
      sentAt.set(requestId, nowMs);
      coded.copy(message, offset);
      message.write(requestId, offset + idOffset, 'latin1');
    }
    call.write(message);
  };
  return new Promise<Counted>((resolve, reject) => {
    call.on('error', reject);
    call.on('data', (message) => {
      const nowMs = performance.now();
      const results = message['results'] as { request_id: string; error?: { message: string } }[];
      for (const { request_id, error } of results) {
        if (error) return reject(new Error(error.message));
        if (found.times.length < timesMax) found.times.push(nowMs - (sentAt.get(request_id) ?? nowMs));
        sentAt.delete(request_id);
      }
      found.requests += results.length;
      found.seconds = (nowMs - startedAtMs) / 1000;
      const done = limit > 0 ? found.requests >= limit : found.seconds >= wanted;
      if (!done) ask(results.length);
      else if (sentAt.size === 0) resolve(found);
    });
    ask(inFlight);
  });
}

/** `inFlight` ExecuteStream calls of 1,000 chunks each; counts chunks. */
async function stream({ pool, payloadBytes, inFlight, seconds: wanted }: ClientLoad): Promise<Counted> {
  const client = newClient();
  const payload = Buffer.from(JSON.stringify({ count: 1_000, size: payloadBytes }));
  const found: Counted = { requests: 0, seconds: 0, times: [] };
  const startedAtMs = performance.now();
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const call = client.makeServerStreamRequest(
        '/pitwarden.v1.Execution/ExecuteStream',
        encode(ExecuteRequest),
        decode(ExecuteResponse),
        { pool, command: 'stream', payload },
      );
      let lastMs = performance.now();
      call.on('data', () => {
        const nowMs = performance.now();
        found.requests += 1;
        if (found.times.length < timesMax) found.times.push(nowMs - lastMs);
        lastMs = nowMs;
      });
      call.on('error', reject);
      call.on('end', resolve);
    });
  const again = async (): Promise<void> => {
    while (performance.now() - startedAtMs < wanted * 1000) await one();
  };
  await Promise.all(Array.from({ length: inFlight }, again));
  found.seconds = (performance.now() - startedAtMs) / 1000;
  return found;
}

/** The floor: bytes through a unix socket and back, `inFlight` messages of `payloadBytes` at a time. */
function socket({ socket: path, payloadBytes, inFlight, seconds: wanted }: ClientLoad): Promise<Counted> {
  const found: Counted = { requests: 0, seconds: 0, times: [] };
  const message = Buffer.alloc(payloadBytes, 'x');
  const sentAt: number[] = [];
  const startedAtMs = performance.now();
  let pending = 0;
  return new Promise((resolve, reject) => {
    const connection = createConnection(path, () => {
      for (let i = 0; i < inFlight; i += 1) send();
    });
    const send = (): void => {
      sentAt.push(performance.now());
      connection.write(message);
    };
    connection.on('error', reject);
    connection.on('data', (data) => {
      const nowMs = performance.now();
      for (pending += data.length; pending >= payloadBytes; pending -= payloadBytes) {
        found.requests += 1;
        const time = nowMs - (sentAt.shift() ?? nowMs);
        if (found.times.length < timesMax) found.times.push(time);
        if (nowMs - startedAtMs < wanted * 1000) send();
      }
      found.seconds = (nowMs - startedAtMs) / 1000;
      if (sentAt.length === 0) resolve(found);
    });
  });
}

/** Execute calls over one connection by node:http2: h2load has no client certificates. */
async function execute(asked: ClientLoad): Promise<Counted> {
  const { socket: url, tls, pool, command, payloadBytes, inFlight, seconds: wanted } = asked;
  const files = tls && { ca: readFileSync(tls.ca), cert: readFileSync(tls.cert), key: readFileSync(tls.key) };
  const session = http2Connect(url, { ...files, settings: { initialWindowSize: windowBytes } });
  await once(session, 'connect');
  session.setLocalWindowSize(windowBytes);
  const body = grpcFrame(encodeAsk({ pool, command, payloadBytes }));
  const headers = { ':method': 'POST', ':path': executePath, 'content-type': 'application/grpc', te: 'trailers' };
  const found: Counted = { requests: 0, seconds: 0, times: [] };
  const startedAtMs = performance.now();
  const one = async (): Promise<void> => {
    const sentAtMs = performance.now();
    const stream = session.request(headers);
    let [bytes, status] = [0, ''];
    stream.on('data', (data: Buffer) => {
      bytes += data.length;
    });
    stream.on('trailers', (trailers) => {
      status = String(trailers['grpc-status']);
    });
    stream.end(body);
    await once(stream, 'close');
    if (status !== '0' || bytes < payloadBytes) {
      throw new Error(`expected grpc-status 0 and ${payloadBytes} bytes or more, got ${status} and ${bytes}`);
    }
    found.requests += 1;
    if (found.times.length < timesMax) found.times.push(performance.now() - sentAtMs);
  };
  const again = async (): Promise<void> => {
    while (performance.now() - startedAtMs < wanted * 1000) await one();
  };
  await Promise.all(Array.from({ length: inFlight }, again));
  found.seconds = (performance.now() - startedAtMs) / 1000;
  return found;
}

const load = JSON.parse(process.argv[2] ?? '{}') as ClientLoad;
const { requests, seconds, times } = await { submit, stream, socket, execute }[load.kind](load);
const result = {
  requests,
  seconds,
  perSecond: requests / seconds,
  p50Ms: percentile(times, 50),
  p99Ms: percentile(times, 99),
};
process.stdout.write(`${JSON.stringify(result)}\n`);
process.exit(0);
