import { failed, type Parsed, show } from './units.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

export const addressPattern = '^(\\[[0-9a-fA-F:.]+\\]|[^:\\s]+):[0-9]{1,5}$';

/** Parses an address; `off` becomes null. */
export function parseHttp(input: unknown): Parsed<Address | null> {
  if (input === 'off') return { ok: true, value: null };
  if (input === false) return failed('expected HOST:PORT or off, got false; write off to disable it');
  return parseAddress(input);
}

/** Why the HTTP server may not use this address unless `http_allow_remote` is set. */
export function remoteHttpProblem({ host }: Address): string | undefined {
  if (isLoopback(host)) return undefined;
  const remedy = 'the HTTP server has no authentication; to allow this anyway, set http_allow_remote: true';
  return `expected a loopback address, got ${show(host)}: ${remedy}`;
}

/** Why gRPC may not use this address without TLS. */
export function remoteListenProblem({ host }: Address): string {
  return `expected a loopback address, got ${show(host)}: beyond loopback set tls (cert, key and client_ca)`;
}

export function parseAddress(input: unknown): Parsed<Address> {
  const wanted = 'expected HOST:PORT such as 127.0.0.1:9464';
  if (typeof input === 'number') return failed(`${wanted}, got only a port; write 127.0.0.1:${input}`);
  if (typeof input !== 'string') return failed(`${wanted}, got ${show(input)}`);
  const match = /^(?:\[([0-9a-f:.]+)\]|([^:\s[\]]+)):([0-9]{1,5})$/i.exec(input);
  const host = match?.[1] ?? match?.[2];
  if (match === null || host === undefined) return failed(`${wanted}, got ${show(input)}`);
  const port = Number(match[3]);
  if (port > 65_535) return failed(`expected a port from 0 to 65535, got ${port}`);
  return { ok: true, value: { host, port } };
}

/** Judged by its spelling: a name other than localhost could resolve to any address. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.[0-9]{1,3}){3}$/.test(host);
}
