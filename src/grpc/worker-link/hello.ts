import { status } from '@grpc/grpc-js';
import protobuf from 'protobufjs';
import type { HelloClaim, WorkerHello } from './source.ts';

export const protocol = 1;

/** Field numbers of link.proto, with the wire type of a text or message. */
const tag = { hello: (1 << 3) | 2, workerId: (2 << 3) | 2, token: (3 << 3) | 2 } as const;

/** Reads `hello`, `worker_id` and `token` of link.proto from the first bytes of a frame. Undefined: they are not there. */
export function claimOf(beginning: Buffer): HelloClaim | undefined {
  const reader = protobuf.Reader.create(beginning);
  let workerId: string | undefined;
  try {
    if (reader.uint32() !== tag.hello) return undefined;
    reader.uint32();
    for (;;) {
      const field = reader.uint32();
      if (field === tag.workerId) workerId = reader.string();
      else if (field === tag.token)
        return workerId === undefined ? undefined : { worker_id: workerId, token: reader.string() };
      else reader.skipType(field & 7);
    }
  } catch {
    return undefined;
  }
}

type Checked =
  | { readonly ok: true; readonly hello: WorkerHello }
  | { readonly ok: false; readonly code: status; readonly message: string };

/** Checks that a first frame has a hello of our protocol. */
export function checkFirst(hello: WorkerHello | null): Checked {
  const refused = (code: status, message: string): Checked => ({ ok: false, code, message });
  if (hello === null) return refused(status.INVALID_ARGUMENT, 'expected a hello as the first frame');
  if (hello.protocol !== protocol) {
    return refused(
      status.FAILED_PRECONDITION,
      `protocol: expected ${protocol}, got ${hello.protocol}: upgrade the older side`,
    );
  }
  return { ok: true, hello };
}
