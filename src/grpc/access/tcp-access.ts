import type { X509Certificate } from 'node:crypto';
import type { Http2Session } from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { ServerCredentials } from '@grpc/grpc-js';
import type { Identity, IdentityRules } from './identity.ts';
import { identityOfCertificate, insecureTcp } from './identity.ts';
import type { MutualTlsCredentials } from './tls-credentials.ts';

/** How connections over TCP are secured, and who calls over them. */
export interface TcpAccess {
  readonly credentials: ServerCredentials;
  /** Undefined: grpc-js does not show the connection. */
  identityOf(session: Http2Session | undefined): Identity;
  /** Whether the certificate of the connection is revoked by now. */
  isRevoked(session: Http2Session): boolean;
  /** A connection takes no new calls after this time. Infinite: it may stay. */
  readonly connectionMaxAgeMs: number;
}

/** Anyone who can connect may call. `mayControl`: Control too. */
export function insecureAccess(mayControl: boolean): TcpAccess {
  const identity = insecureTcp(mayControl);
  return {
    credentials: ServerCredentials.createInsecure(),
    identityOf: () => identity,
    isRevoked: () => false,
    connectionMaxAgeMs: Number.POSITIVE_INFINITY,
  };
}

/** The client's certificate says who calls. */
export function tlsAccess(
  credentials: MutualTlsCredentials,
  rules: IdentityRules,
  connectionMaxAgeMs: number,
  isRevoked: (certificate: X509Certificate) => boolean,
): TcpAccess {
  return {
    credentials,
    identityOf: (session) => identityOfCertificate(certificateOf(session), rules),
    isRevoked: (session) => {
      const certificate = certificateOf(session);
      return certificate === undefined || isRevoked(certificate);
    },
    connectionMaxAgeMs,
  };
}

function certificateOf(session: Http2Session | undefined): X509Certificate | undefined {
  const socket = session?.socket as TLSSocket | undefined;
  return socket?.getPeerX509Certificate?.();
}
