import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface HttpSource {
  metrics(): Promise<{ readonly contentType: string; readonly body: string }>;
  /** The agent's own loop turns: it answers at all. */
  health(): { readonly ok: boolean; readonly text: string };
  /** Requests can be served. */
  readiness(): { readonly ok: boolean; readonly text: string };
}

export interface HttpServer {
  /** `HOST:PORT` that it got. */
  readonly address: string;
  close(): Promise<void>;
}

/** What a scraper may take to read an answer. */
const requestTimeoutMs = 10_000;

export async function startHttp(address: { host: string; port: number }, source: HttpSource): Promise<HttpServer> {
  const server = createServer({ requestTimeout: requestTimeoutMs }, (request, response) => {
    void answer(source, request, response);
  });
  await new Promise<void>((resolve, reject) => {
    const refused = (error: Error): void => {
      const remedy = 'name another address with --http HOST:PORT (config: http), or off';
      reject(new Error(`could not listen at http ${address.host}:${address.port}: ${error.message}; ${remedy}`));
    };
    server.once('error', refused);
    server.listen(address.port, address.host, () => {
      server.off('error', refused);
      resolve();
    });
  });
  const { address: host, port } = server.address() as AddressInfo;
  return {
    address: host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(source: HttpSource, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const say = (status: number, text: string, contentType = 'text/plain; charset=utf-8'): void => {
    response.writeHead(status, { 'content-type': contentType, 'content-length': Buffer.byteLength(text) });
    response.end(request.method === 'HEAD' ? undefined : text);
  };
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('allow', 'GET, HEAD');
    return say(405, `method: expected GET or HEAD, got ${request.method ?? 'nothing'}\n`);
  }
  const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
  const probe = { '/healthz': source.health, '/readyz': source.readiness }[path];
  if (probe !== undefined) {
    const { ok, text } = probe();
    return say(ok ? 200 : 503, `${text}\n`);
  }
  if (path !== '/metrics') return say(404, 'path: expected /metrics, /healthz or /readyz\n');
  try {
    const { contentType, body } = await source.metrics();
    say(200, body, contentType);
  } catch (error) {
    say(500, `metrics: ${error instanceof Error ? error.message : String(error)}\n`);
  }
}
