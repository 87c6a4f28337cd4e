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
  /** A connection takes no new calls after this time. Infinite: it may stay. */
  readonly connectionMaxAgeMs: number;
}

/** Anyone who can connect may call. `mayControl`: Control too. */
export function insecureAccess(mayControl: boolean): TcpAccess {
  const identity = insecureTcp(mayControl);
  return {
    credentials: ServerCredentials.createInsecure(),
    identityOf: () => identity,
    connectionMaxAgeMs: Number.POSITIVE_INFINITY,
  };
}

/** The client's certificate says who calls. */
export function tlsAccess(
  credentials: MutualTlsCredentials,
  rules: IdentityRules,
  connectionMaxAgeMs: number,
): TcpAccess {
  return {
    credentials,
    identityOf: (session) => {
      const socket = session?.socket as TLSSocket | undefined;
      return identityOfCertificate(socket?.getPeerX509Certificate?.(), rules);
    },
    connectionMaxAgeMs,
  };
}
