import type { IncomingHttpHeaders } from 'node:http2';

/** grpc-js counts a call's time in 32 bits of milliseconds: a longer one counts as over at once, or as a random shorter one. */
const longestMs = 2 ** 31 - 1;
const longest = `${Math.floor(longestMs / 1000)}S`;
/** In other units the eight digits that a timeout may have are never too long. */
const unitsMs: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000 };

/** Shortens a timeout of more than 24.8 days to that. */
export function shortenTimeout(headers: IncomingHttpHeaders): void {
  const timeout = headers['grpc-timeout'];
  if (typeof timeout !== 'string' || timeout.length < 4) return;
  const unitMs = unitsMs[timeout.at(-1) ?? ''];
  if (unitMs !== undefined && Number.parseInt(timeout, 10) * unitMs > longestMs) headers['grpc-timeout'] = longest;
}
