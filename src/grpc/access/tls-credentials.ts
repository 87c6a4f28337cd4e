import { constants } from 'node:crypto';
import type { SecureContextOptions } from 'node:tls';
import { ServerCredentials } from '@grpc/grpc-js';

/** Certificates in PEM, as read from the files of `tls`. */
export interface TlsMaterial {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly clientCa: Buffer;
  /** A revocation list of each CA; empty: none is configured. */
  readonly crls: readonly Buffer[];
}

/** How long a client may take for the handshake. */
export const handshakeTimeoutMs = 10_000;

/**
 * TLS 1.3 with client certificates. grpc-js's own credentials take no revocation list, and no later certificates. `replace` applies
 * to new connections.
 */
export class MutualTlsCredentials extends ServerCredentials {
  constructor(material: TlsMaterial) {
    const server = { requestCert: true, rejectUnauthorized: true, handshakeTimeout: handshakeTimeoutMs };
    super(server, contextOptions(material));
  }

  replace(material: TlsMaterial): void {
    this.updateSecureContextOptions(contextOptions(material));
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}

export function contextOptions({ cert, key, clientCa, crls }: TlsMaterial): SecureContextOptions {
  return {
    ...{ cert, key, ca: clientCa, minVersion: 'TLSv1.3' },
    ...(crls.length === 0 ? {} : { crl: [...crls] }),
    // A resumed session is not verified again, so it would outlive a revocation.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}
