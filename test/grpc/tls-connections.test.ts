import { EventEmitter } from 'node:events';
import type { Http2Session } from 'node:http2';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createTlsConnections } from '../../src/grpc/access/tls-connections.ts';

/** A session whose calls go on until it is destroyed. */
class Session extends EventEmitter {
  closed = false;
  destroyed = false;
  close(): void {
    this.closed = true;
  }
  destroy(): void {
    this.destroyed = true;
    this.emit('close');
  }
}

const added = (connections: ReturnType<typeof createTlsConnections>): Session => {
  const session = new Session();
  connections.add(session as unknown as Http2Session);
  return session;
};
const hourMs = 3_600_000;
const nobody = () => false;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('a connection takes no new calls from its age on, and its calls have 30 s', () => {
  const session = added(createTlsConnections(hourMs, nobody));
  vi.advanceTimersByTime(0.89 * hourMs);
  expect(session.closed).toBe(false);
  while (!session.closed) vi.advanceTimersByTime(1_000);
  vi.advanceTimersByTime(28_000);
  expect(session.destroyed).toBe(false);
  vi.advanceTimersByTime(2_000);
  expect(session.destroyed).toBe(true);
});

test.each([Number.POSITIVE_INFINITY, 365 * 24 * hourMs])('a connection may stay for %i ms', (maxAgeMs) => {
  const session = added(createTlsConnections(maxAgeMs, nobody));
  vi.advanceTimersByTime(20 * 24 * hourMs);
  expect(session.closed).toBe(false);
});

test('renewed connections are those that are open, and those whose handshake may have begun before', () => {
  const connections = createTlsConnections(hourMs, nobody);
  const open = added(connections);
  const gone = added(connections);
  gone.destroy();
  connections.renewAll();
  expect([open.closed, gone.closed]).toEqual([true, false]);
  vi.advanceTimersByTime(10_000);
  const late = added(connections);
  expect(late.closed).toBe(false);
  vi.advanceTimersByTime(1_000);
  const fresh = added(connections);
  vi.advanceTimersByTime(60_000);
  expect([late.destroyed, fresh.closed]).toEqual([true, false]);
});

test('connections of revoked certificates are cut at once, also one whose handshake ends later, and others live on', () => {
  const revoked = new Set<unknown>();
  const connections = createTlsConnections(hourMs, (session) => revoked.has(session));
  const [bad, good] = [added(connections), added(connections)];
  revoked.add(bad);
  expect(bad.destroyed).toBe(false);
  connections.endRevoked();
  const late = new Session();
  revoked.add(late);
  connections.add(late as unknown as Http2Session);
  expect([bad.destroyed, good.destroyed, good.closed, late.destroyed]).toEqual([true, false, false, true]);
  expect(connections.open.size).toBe(1);
});
