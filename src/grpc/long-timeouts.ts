import type { IncomingHttpHeaders } from 'node:http2';

/** grpc-js keeps a call's timeout in 32 bits of milliseconds. A longer timeout ends at once, or after an arbitrary shorter time. */
const longestMs = 2 ** 31 - 1;
const longest = `${Math.floor(longestMs / 1000)}S`;
/** A timeout has at most eight digits, so timeouts in smaller units are never too long. */
const unitsMs: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000 };

/** Shortens a timeout of more than 24.8 days to 24.8 days. */
export function shortenTimeout(headers: IncomingHttpHeaders): void {
  const timeout = headers['grpc-timeout'];
  if (typeof timeout !== 'string' || timeout.length < 4) return;
  const unitMs = unitsMs[timeout.at(-1) ?? ''];
  if (unitMs !== undefined && Number.parseInt(timeout, 10) * unitMs > longestMs) headers['grpc-timeout'] = longest;
}
