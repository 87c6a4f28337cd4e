import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from './processes.ts';
import { percentile } from './statistics.ts';

export interface LoadTarget {
  /** Unix socket, or `127.0.0.1:PORT`. */
  readonly address: string;
  readonly path: string;
  readonly body: Buffer;
  /** Every good answer has at least so many bytes: a gRPC error has none, and h2load would take it for a success. */
  readonly answerBytes: number;
  readonly protocol: 'grpc' | 'http1';
}

export interface LoadResult {
  readonly requests: number;
  readonly seconds: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** A gRPC message in its frame: no compression, four bytes of length (gRPC over HTTP/2, Length-Prefixed-Message). */
export function grpcFrame(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

/** h2load of nghttp2: a load that costs little itself, from a process of its own. */
export async function h2load(target: LoadTarget, load: { requests: number; inFlight: number }): Promise<LoadResult> {
  const folder = mkdtempSync(join(tmpdir(), 'pitwarden-bench-'));
  try {
    const [body, log] = [join(folder, 'body'), join(folder, 'log')];
    writeFileSync(body, target.body);
    const isPath = target.address.startsWith('/');
    const url = isPath ? `http://localhost${target.path}` : `http://${target.address}${target.path}`;
    const { inFlight } = load;
    const requests = Math.max(load.requests, inFlight);
    const output = await runCommand('h2load', [
      ...(isPath ? ['--base-uri', `unix:${target.address}`] : []),
      // HTTP/1.1 has no streams: as many connections as requests in flight.
      ...(target.protocol === 'grpc' ? ['-c', '1', '-m', `${inFlight}`] : ['--h1', '-c', `${inFlight}`]),
      ...['-n', `${requests}`, '-t', '1', '-w', '30', '-W', '30', '-d', body, `--log-file=${log}`],
      ...(target.protocol === 'grpc'
        ? ['-H', 'content-type: application/grpc', '-H', 'te: trailers']
        : ['-H', 'content-type: application/octet-stream']),
      url,
    ]);
    return read(output, readFileSync(log, 'latin1'), requests, target);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function read(output: string, log: string, requests: number, target: LoadTarget): LoadResult {
  const [, finished, unit] = /finished in ([\d.]+)(us|ms|s|m)/.exec(output) ?? [];
  const [, succeeded] = /(\d+) succeeded/.exec(output) ?? [];
  const [, data] = /\((\d+)\) data/.exec(output) ?? [];
  if (Number(succeeded) !== requests || Number(data) < requests * target.answerBytes) {
    throw new Error(
      `h2load ${target.path}: expected ${requests} answers of ${target.answerBytes} bytes or more, got:\n${output}`,
    );
  }
  const seconds = Number(finished) * ({ us: 1e-6, ms: 1e-3, s: 1, m: 60 }[unit ?? 's'] ?? 1);
  const times = log
    .trimEnd()
    .split('\n')
    .map((line) => Number(line.split('\t')[2]) / 1000);
  return {
    requests,
    seconds,
    perSecond: requests / seconds,
    p50Ms: percentile(times, 50),
    p99Ms: percentile(times, 99),
  };
}

/**
 * Loads a target for about `seconds`: a short burst warms it up and a longer one tells how many requests that takes; the
 * first alone is mostly connecting.
 */
export async function h2loadFor(target: LoadTarget, load: { seconds: number; inFlight: number }): Promise<LoadResult> {
  const { inFlight } = load;
  const burst = await h2load(target, { requests: Math.max(50, inFlight * 4), inFlight });
  const warmUp = await h2load(target, { requests: Math.ceil(burst.perSecond * 0.3), inFlight });
  return h2load(target, { requests: Math.ceil(warmUp.perSecond * load.seconds), inFlight });
}
