import { isLoopback } from '../config/address.ts';

/** `HOST:PORT`, or empty if the surface does not exist. */
export interface TcpAddresses {
  readonly listenAddress: string;
  readonly httpAddress: string;
}

export interface Exposure extends TcpAddresses {
  /** Whether `listenAddress` has TLS with certificates of clients. */
  readonly hasTls: boolean;
  /** Without TLS: whether Control is served at `listenAddress`. */
  readonly listenInsecureControl: boolean;
}

/**
 * One sentence for each surface that serves anyone who can reach it. Logged at the start, and shown by `status` and
 * GetNode.
 */
export function exposureWarnings({ listenAddress, httpAddress, hasTls, listenInsecureControl }: Exposure): string[] {
  const warnings: string[] = [];
  if (listenAddress !== '' && !hasTls) {
    const can = listenInsecureControl ? 'run commands and stop workers' : 'run commands';
    warnings.push(
      `listen: gRPC at ${listenAddress} has no authentication: every user and process of this host can ${can}`,
    );
  }
  if (httpAddress !== '' && !isLoopback(hostOf(httpAddress))) {
    warnings.push(
      `http: ${httpAddress} has no authentication: other hosts that reach it can read the names of pools and their metrics`,
    );
  }
  return warnings;
}

function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1');
}
