import type { Socket } from 'node:net';
import { connect } from 'node:net';
import fc from 'fast-check';
import { pause } from '../../../bench/processes.ts';
import type { FuzzTarget } from '../agent.ts';
import type { Bytes } from '../bytes.ts';
import { editedBytes, mutated } from '../bytes.ts';
import type { Surface } from './surface.ts';

/** Connections that speak HTTP/2 badly, or something else. */
interface RawConnection {
  readonly to: 'api' | 'link';
  readonly preface: 'right' | 'right with settings' | 'none' | 'HTTP/1' | 'TLS';
  readonly frames: readonly Frame[];
  readonly ending: 'close' | 'half-close' | 'reset' | 'stay';
}

interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Bytes;
  readonly lengthError: number;
  readonly times: number;
}

const prefaces: Readonly<Record<RawConnection['preface'], string>> = {
  right: 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'right with settings': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0',
  none: '',
  'HTTP/1': 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n',
  TLS: '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
};

const headersOf = (fields: Readonly<Record<string, string>>): string =>
  Object.entries(fields)
    .map(([name, value]) => `\0${String.fromCharCode(name.length)}${name}${String.fromCharCode(value.length)}${value}`)
    .join('');
const execute = headersOf({
  ...{ ':method': 'POST', ':scheme': 'http', ':path': '/pitwarden.v1.Execution/Execute', ':authority': 'localhost' },
  ...{ te: 'trailers', 'content-type': 'application/grpc' },
});

const payload = mutated(
  fc.constantFrom(execute, '', '\0\0\0\0\x05', '\0\x03\0\0\0\x01', '\0\0\0\0', '\0\0\0\0\0\0\0\0'),
  ['\x82', '\xbe', '\x3f\xe1\xff\xff\x7f', '\0\0', '\x40\x01a\x01b', '\x7f\xff\xff\xff\x0f'],
);
const frame: fc.Arbitrary<Frame> = fc.record({
  // DATA to CONTINUATION are 0 to 9.
  type: fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 0, max: 9 }) }, fc.integer({ min: 10, max: 255 })),
  flags: fc.oneof(fc.constantFrom(0, 1, 4, 5, 8), fc.integer({ min: 0, max: 255 })),
  stream: fc.oneof({ weight: 8, arbitrary: fc.integer({ min: 0, max: 9 }) }, fc.constant(0x7fff_ffff)),
  payload,
  lengthError: fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, fc.constantFrom(1, -1, 0xff_ffff)),
  times: fc.oneof({ weight: 6, arbitrary: fc.constant(1) }, fc.integer({ min: 100, max: 20_000 })),
});

export const frames: Surface<RawConnection> = {
  name: 'frames',
  cases: fc.record({
    to: fc.constantFrom('api' as const, 'api' as const, 'link' as const),
    preface: fc.oneof(
      { weight: 6, arbitrary: fc.constantFrom('right' as const, 'right with settings' as const) },
      fc.constantFrom('none' as const, 'HTTP/1' as const, 'TLS' as const),
    ),
    frames: fc.array(frame, { maxLength: 6 }),
    ending: fc.constantFrom('close' as const, 'half-close' as const, 'reset' as const, 'stay' as const),
  }),
  most: 150,
  harmsProbe: false,
  restarts: false,
  attack: async (target, cases) => {
    const open = cases.map((each) => talk(target, each));
    await pause(1_000);
    for (const socket of open) socket.destroy();
    return undefined;
  },
};

/** A stream of frames longer than this only measures the kernel. */
const mostBytes = 16 * 1024 * 1024;

function talk(target: FuzzTarget, { to, preface, frames: sent, ending }: RawConnection): Socket {
  const socket = connect({ path: to === 'api' ? target.socket : target.link, allowHalfOpen: true });
  socket.on('error', () => undefined);
  socket.resume();
  socket.write(Buffer.from(prefaces[preface], 'latin1'));
  for (const each of sent) socket.write(encode(each));
  if (ending === 'close') socket.end(() => socket.destroy());
  if (ending === 'half-close') socket.end();
  if (ending === 'reset') setTimeout(() => socket.destroy(), 20);
  return socket;
}

function encode({ type, flags, stream, payload: description, lengthError, times }: Frame): Buffer {
  const body = editedBytes(description).subarray(0, 0xff_ffff);
  const head = Buffer.alloc(9);
  head.writeUIntBE((body.length + lengthError) & 0xff_ffff, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  const whole = Buffer.concat([head, body]);
  return Buffer.alloc(Math.min(times, Math.ceil(mostBytes / whole.length)) * whole.length, whole);
}
