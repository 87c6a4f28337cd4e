import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { isIP } from 'node:net';
import type { ConnectionNumbers } from '../grpc/connection-limit.ts';
import { limitConnections } from '../grpc/connection-limit.ts';

export interface HttpSource {
  metrics(): Promise<{ readonly contentType: string; readonly body: string }>;
  /** Whether the agent's loop makes progress. */
  health(): { readonly ok: boolean; readonly text: string };
  /** Whether requests can be served. */
  readiness(): { readonly ok: boolean; readonly text: string };
}

export interface HttpServer {
  /** The actual `HOST:PORT`. */
  readonly address: string;
  close(): Promise<void>;
  connections(): ConnectionNumbers;
}

export interface HttpLimits {
  /** Maximum number of open connections. */
  maxConnections(): number;
  /** Called with a message for users when a connection was refused. */
  onRefused(message: string): void;
}

/** How long a scraper may take to send its request. */
const requestTimeoutMs = 10_000;
/** A connection without any traffic is closed after this time. */
const silenceTimeoutMs = 30_000;
const checkEveryMs = 2_500;

export async function startHttp(
  address: { host: string; port: number },
  source: HttpSource,
  limits: HttpLimits,
): Promise<HttpServer> {
  /** Connections with an unanswered request. */
  const busy = new Set<Socket>();
  const limit = limitConnections({
    max: limits.maxConnections,
    evictable: (open) => firstOf(open, (socket) => !busy.has(socket)),
    onRefused: (message) => limits.onRefused(`http ${address.host}:${address.port}: ${message}`),
  });
  const timeouts = {
    headersTimeout: requestTimeoutMs,
    requestTimeout: requestTimeoutMs,
    connectionsCheckingInterval: checkEveryMs,
  };
  const shared = { ...source, metrics: shareMetrics(source) };
  let isAllowedHost = (_: string): boolean => true;
  const server = createServer(timeouts, (request, response) => {
    const { socket } = request;
    // No scraper sends a second request before it has an answer. A thousand pipelined requests fit into one read, but
    // their answers may not fit into memory.
    if (busy.has(socket)) return void socket.destroy();
    busy.add(socket);
    response.once('close', () => busy.delete(socket));
    if (isAllowedHost(request.headers.host ?? '')) void answer(shared, request, response);
    else misdirected(request, response);
  });
  server.timeout = silenceTimeoutMs;
  server.on('connection', limit.admit);
  await new Promise<void>((resolve, reject) => {
    const refused = (error: Error): void => {
      const remedy = 'name another address with --http HOST:PORT (config: http), or off';
      reject(new Error(`could not listen at http ${address.host}:${address.port}: ${error.message}; ${remedy}`));
    };
    server.once('error', refused);
    server.listen(address.port, address.host, () => {
      server.off('error', refused);
      // An accept that fails for lack of descriptors is retried with the next connection.
      server.on('error', (error) => limits.onRefused(`http ${address.host}:${address.port}: ${error.message}`));
      resolve();
    });
  });
  const { address: host, port } = server.address() as AddressInfo;
  if (isLoopback(host)) isAllowedHost = isLocalName;
  return {
    address: host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
    connections: limit.numbers,
  };
}

/** Rendering the metrics takes milliseconds. After that the agent serves others for this many times as long. */
const restShare = 4;

/** Requests that arrive before the next rendering is due share it. */
function shareMetrics(source: HttpSource): HttpSource['metrics'] {
  let next: ReturnType<HttpSource['metrics']> | null = null;
  let restsUntilMs = 0;
  const render: HttpSource['metrics'] = async () => {
    next = null;
    const startedAtMs = performance.now();
    try {
      return await source.metrics();
    } finally {
      const endedAtMs = performance.now();
      restsUntilMs = endedAtMs + restShare * (endedAtMs - startedAtMs);
    }
  };
  return () => {
    const waitMs = restsUntilMs - performance.now();
    // Never at once: all requests of this turn of the event loop share the rendering.
    next ??= new Promise<void>((resolve) => {
      if (waitMs > 0) setTimeout(resolve, waitMs);
      else setImmediate(resolve);
    }).then(render);
    return next;
  };
}

async function answer(source: HttpSource, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const respond = (status: number, text: string, contentType = 'text/plain; charset=utf-8'): void => {
    response.writeHead(status, { 'content-type': contentType, 'content-length': Buffer.byteLength(text) });
    response.end(request.method === 'HEAD' ? undefined : text);
  };
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    return respond(405, `method: expected GET or HEAD, got ${request.method ?? 'nothing'}\n`);
  }
  const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
  const probe = { '/healthz': source.health, '/readyz': source.readiness }[path];
  if (probe !== undefined) {
    const { ok, text } = probe();
    return respond(ok ? 200 : 503, `${text}\n`);
  }
  if (path !== '/metrics') return respond(404, 'path: expected /metrics, /healthz or /readyz\n');
  try {
    const { contentType, body } = await source.metrics();
    respond(200, body, contentType);
  } catch (error) {
    respond(500, `metrics: ${error instanceof Error ? error.message : String(error)}\n`);
  }
}

/**
 * A web site can make its own name resolve to 127.0.0.1 (DNS rebinding); a visitor's browser then reads what is served
 * here as if it belonged to that site. Such requests carry the site's name, while legitimate ones name `localhost` or
 * an address.
 */
function isLocalName(host: string): boolean {
  const name = host
    .toLowerCase()
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1');
  return name === '' || name === 'localhost' || name.endsWith('.localhost') || isIP(name) !== 0;
}

function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}

function misdirected(request: IncomingMessage, response: ServerResponse): void {
  const host = JSON.stringify((request.headers.host ?? '').slice(0, 100));
  response.writeHead(421, { 'content-type': 'text/plain; charset=utf-8' });
  response.end(`host: expected localhost or an IP address, got ${host}\n`);
}

function firstOf<T>(values: Iterable<T>, wanted: (value: T) => boolean): T | undefined {
  for (const value of values) if (wanted(value)) return value;
  return undefined;
}
