import { expect, test } from 'vitest';
import { services, UnreadableMessage } from '../../src/grpc/proto.ts';

/** Empty occurrences of a repeated field with a length, of two bytes each. */
function empties(field: number, count: number): Buffer {
  return Buffer.alloc(2 * count, Buffer.from([(field << 3) | 2, 0]));
}

function field(id: number, payload: Buffer): Buffer {
  const head: number[] = [(id << 3) | 2];
  for (let rest = payload.length; ; rest >>>= 7) {
    if (rest < 128) {
      head.push(rest);
      break;
    }
    head.push((rest & 127) | 128);
  }
  return Buffer.concat([Buffer.from(head), payload]);
}

const mib = 2 ** 20;
const read = (service: 'Execution' | 'WorkerLink', method: string, bytes: Buffer): object =>
  services[service][method]?.requestDeserialize(bytes) as object;

test.each<[string, 'Execution' | 'WorkerLink', string, Buffer, string]>([
  ['items', 'Execution', 'Submit', empties(1, 30 * mib), 'items: expected at most 10000'],
  ['cancels', 'Execution', 'Submit', empties(2, 10_001), 'cancel_request_ids: expected at most 10000'],
  ['results', 'WorkerLink', 'Attach', empties(5, 30 * mib), 'results: expected at most 30000'],
  ['packed numbers', 'WorkerLink', 'Attach', field(3, Buffer.alloc(60 * mib)), 'returned: expected at most 100000'],
  ['commands of a hello', 'WorkerLink', 'Attach', field(1, empties(5, 4_000)), 'commands: expected at most 1000'],
  [
    'held requests, two levels down',
    'WorkerLink',
    'Attach',
    field(1, field(13, empties(4, 10 * mib))),
    'held: expected at most 120000',
  ],
  ['one field again and again', 'Execution', 'Execute', empties(1, 10_000), 'expected at most 1000 fields'],
  ['unknown fields', 'Execution', 'Execute', empties(15, 10_000), 'expected at most 1000 fields'],
  ['groups', 'Execution', 'Execute', Buffer.alloc(10_000, 0x0b), 'expected a well-formed message'],
  ['another type of field', 'Execution', 'Submit', Buffer.alloc(10_000, 0x08), 'expected a well-formed message'],
  [
    'a field that leaves its message',
    'Execution',
    'Submit',
    Buffer.concat([Buffer.from([0x0a, 2, 0x0a, 0x7f]), empties(1, 8_000)]),
    'expected a well-formed message',
  ],
])(
  'a message with too many or malformed fields is refused before it is decoded: %s',
  (_, service, method, bytes, problem) => {
    const heapBefore = process.memoryUsage().heapUsed;
    const message = read(service, method, bytes);
    expect(message).toBeInstanceOf(UnreadableMessage);
    expect((message as UnreadableMessage).problem).toContain(problem);
    expect(process.memoryUsage().heapUsed - heapBefore).toBeLessThan(20 * mib);
  },
);

test('a message within the bounds is decoded', () => {
  const item = Buffer.concat([field(1, field(1, Buffer.from('pool'))), Buffer.from([0x10, 5])]);
  const items = Buffer.concat(Array.from({ length: 10_000 }, () => field(1, item)));
  expect(read('Execution', 'Submit', items)).toMatchObject({ items: expect.objectContaining({ length: 10_000 }) });
  const large = field(3, Buffer.alloc(5 * mib, 0x0b));
  expect((read('Execution', 'Execute', large) as { payload: Buffer }).payload.length).toBe(5 * mib);
  const returned = { returned: Array.from({ length: 50_000 }, (_, index) => index) };
  const bytes = services.WorkerLink['Attach']?.requestSerialize(returned) as Buffer;
  expect(read('WorkerLink', 'Attach', bytes)).toMatchObject(returned);
});

test.each<[string, string]>([
  ['a string that leaves the message', '\x0a\x05p'],
  ['bytes that leave the message', '\x1a\x05p'],
  ['a tag that does not end', '\xff'],
  ['a length of 2^32 - 1', '\x0a\xff\xff\xff\xff\x0f'],
  ['a number without an end', '\x38\xff'],
  ['a wire type that protobuf does not have', '\x0f'],
  ['a known field of another type', '\x08\x01'],
])('a short malformed message is refused: %s', (_, text) => {
  const message = read('Execution', 'Execute', Buffer.from(text, 'latin1'));
  expect(message).toEqual(new UnreadableMessage('expected a well-formed message, got one that is not'));
});
