import type { ClientHttp2Session } from 'node:http2';
import { connect as connectHttp2 } from 'node:http2';
import { connect as connectSocket } from 'node:net';
import { Duplex } from 'node:stream';
import { clients } from '../../src/grpc/proto.ts';

/** A caller that sends gRPC requests and leaves every received byte unread in the kernel until it is told to read. */
export interface DeafCaller {
  send(method: 'Execute' | 'ExecuteStream' | 'Submit', message: object): void;
  read(): void;
  /** Drops unread data. */
  close(): void;
}

export function connectDeaf(socketPath: string): DeafCaller {
  const socket = connectSocket(socketPath);
  socket.pause();
  const duplex = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => void socket.write(chunk, () => done()),
    destroy: (error, done) => {
      socket.destroy();
      done(error);
    },
  });
  socket.on('error', () => undefined);
  socket.on('data', (chunk) => duplex.push(chunk));
  const session: ClientHttp2Session = connectHttp2('http://localhost', { createConnection: () => duplex });
  session.on('error', () => undefined);
  return {
    send: (method, message) => {
      const definition = clients.Execution.service[method];
      if (definition === undefined) throw new Error(`Execution has no ${method}`);
      const bytes = definition.requestSerialize(message);
      const head = Buffer.alloc(5);
      head.writeUInt32BE(bytes.length, 1);
      const call = session.request({
        ...{ ':method': 'POST', ':path': definition.path, te: 'trailers', 'content-type': 'application/grpc' },
      });
      call.on('error', () => undefined);
      call.resume();
      call.write(Buffer.concat([head, bytes]));
      if (method !== 'Submit') call.end();
    },
    read: () => void socket.resume(),
    close: () => {
      session.destroy();
      socket.destroy();
    },
  };
}
