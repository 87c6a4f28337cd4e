import type { Http2Session, ServerHttp2Stream } from 'node:http2';
import { constants } from 'node:http2';
import type { ServerInterceptor } from '@grpc/grpc-js';
import { ServerInterceptingCall, status } from '@grpc/grpc-js';
import { connectionOfStream } from '../connection.ts';
import { failedStatus } from '../error-details.ts';
import type { Identity } from './identity.ts';
import type { Role } from './roles.ts';
import { rolesByMethod } from './roles.ts';

/** Refuses the calls that a connection's identity may not make, before anything of them is read. */
export function authorize(identityOf: (session: Http2Session | undefined) => Identity): ServerInterceptor {
  return ({ path }, call) => {
    const { stream } = call as { readonly stream?: ServerHttp2Stream };
    const connection = connectionOfStream(stream);
    connection.identity ??= identityOf(connection.session);
    const { identity } = connection;
    const needed = rolesByMethod.get(path) ?? [];
    if (needed.some((role) => identity.roles.has(role))) return call as ServerInterceptingCall;
    return new ServerInterceptingCall(call, {
      start: (next) => {
        next(deaf);
        // A client that goes on sending would keep the stream, and grpc-js would read and drop all of it.
        stream?.once('finish', () => stream.close(constants.NGHTTP2_NO_ERROR));
        call.sendStatus(failedStatus(status.PERMISSION_DENIED, refusal(path, needed, identity), 'NOT_ALLOWED'));
      },
    });
  };
}

/** The handler learns nothing of the call, and so it neither reads it nor answers it. */
const deaf = {
  onReceiveMetadata: () => undefined,
  onReceiveMessage: () => undefined,
  onReceiveHalfClose: () => undefined,
  onCancel: () => undefined,
};

function refusal(path: string, needed: readonly Role[], { name, roles, remedy }: Identity): string {
  const method = path.slice(1);
  if (needed.length === 0) return `${method}: expected a method that some role may call, got one that none may`;
  const got = `${name} (roles: ${[...roles].join(', ') || 'none'})`;
  return `${method}: expected the role ${needed.join(' or ')}, got ${got}${remedy === undefined ? '' : `; ${remedy}`}`;
}
