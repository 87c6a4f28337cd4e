import { isIP } from 'node:net';

/** A host name or an IP address, as a subject alternative name of a server's certificate. */
export interface HostName {
  readonly type: 'dns' | 'ip';
  readonly value: string;
}

const label = '[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?';
const namePattern = new RegExp(`^(?:${label}\\.)*${label}$`);

/** Undefined if this is neither a host name nor an IP address. A last part of digits alone is a mistyped IP address. */
export function parseHost(text: string): HostName | undefined {
  const family = isIP(text);
  // An address with a zone (fe80::1%eth0) has no form in a certificate.
  if (family === 6) return text.includes('%') ? undefined : { type: 'ip', value: shortened(text) };
  if (family === 4) return { type: 'ip', value: text };
  if (text.length > 253 || !namePattern.test(text) || /(?:^|\.)\d+$/.test(text)) return undefined;
  return { type: 'dns', value: text };
}

/** The one form of an address: `::ffff:10.0.0.1` as `::ffff:a00:1`, since @peculiar/x509 misreads the former. */
function shortened(address: string): string {
  return new URL(`http://[${address}]`).hostname.slice(1, -1);
}
