import type { ServiceDefinition } from '@grpc/grpc-js';
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { insecureAccess } from '../../src/grpc/access/tcp-access.ts';
import { addApi } from '../../src/grpc/api.ts';
import { createMemoryBudget } from '../../src/grpc/memory-budget.ts';
import { services } from '../../src/grpc/proto.ts';
import type { ApiServer } from '../../src/grpc/server.ts';
import { createServer } from '../../src/grpc/server.ts';

let api: ApiServer | undefined;
let handled: string[];
beforeEach(() => {
  handled = [];
});
afterEach(async () => api?.stop(0));

const oneMessageMethods = [services.Control, services.Health].flatMap((service) => Object.values(service));

/** Field 1 has a length of 100 bytes, and the message ends after it. */
const cutOff = Buffer.from([0x0a, 100]);

test.each(oneMessageMethods)('a message that cannot be decoded is refused in words: $path', async (method) => {
  const client = new Client(await serve(), credentials.createInsecure());
  const same = (bytes: Buffer): Buffer => bytes;
  const error = await new Promise<{ code: status; details: string }>((resolve, reject) => {
    if (method.responseStream) {
      const stream = client.makeServerStreamRequest(method.path, same, same, cutOff, new Metadata(), {});
      stream
        .on('data', reject)
        .on('error', resolve as never)
        .on('end', reject);
    } else {
      client.makeUnaryRequest(method.path, same, same, cutOff, new Metadata(), {}, (refused, answer) =>
        refused === null ? reject(new Error(`expected a refusal, got ${answer}`)) : resolve(refused),
      );
    }
  });
  client.close();
  expect(error).toMatchObject({
    code: status.INVALID_ARGUMENT,
    details: 'expected a well-formed message, got one that is not',
  });
  expect(handled).toEqual([]);
});

async function serve(): Promise<string> {
  api = createServer({
    ...{ messageMaxBytes: 1024, budget: createMemoryBudget(2 ** 20) },
    connections: { max: () => 100, onRefused: () => undefined, overTcp: insecureAccess(true) },
  });
  addApi(api.server, answering(services.Execution), answering(services.Control));
  return `127.0.0.1:${await api.bind('127.0.0.1:0')}`;
}

function answering(service: ServiceDefinition) {
  const handle = (name: string) => (call: { end?(): void }, answer?: (error: null, message: object) => void) => {
    handled.push(name);
    if (answer === undefined) call.end?.();
    else answer(null, {});
  };
  return Object.fromEntries(Object.keys(service).map((name) => [name, handle(name) as never]));
}
