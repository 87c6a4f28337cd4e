import { expect, test } from 'vitest';
import { exposureWarnings } from '../../src/agent/exposure.ts';

const closed = { listenAddress: '', httpAddress: '', hasTls: false, listenInsecureControl: false };

test('gRPC over TCP causes a warning on any address, HTTP only beyond loopback', () => {
  expect(exposureWarnings(closed)).toEqual([]);
  expect(exposureWarnings({ ...closed, httpAddress: '127.0.0.1:9464' })).toEqual([]);
  expect(exposureWarnings({ ...closed, httpAddress: '[::1]:9464' })).toEqual([]);
  const listens =
    'listen: gRPC at 127.0.0.1:7000 has no authentication: every user and process of this host can run commands';
  expect(exposureWarnings({ ...closed, listenAddress: '127.0.0.1:7000' })).toEqual([listens]);
  expect(exposureWarnings({ ...closed, listenAddress: '127.0.0.1:7000', listenInsecureControl: true })).toEqual([
    `${listens} and stop workers`,
  ]);
  expect(exposureWarnings({ ...closed, listenAddress: '192.0.2.7:7000', hasTls: true })).toEqual([]);
  for (const httpAddress of ['0.0.0.0:9464', '[::]:9464', '192.0.2.7:9464'])
    expect(exposureWarnings({ ...closed, httpAddress })).toEqual([
      `http: ${httpAddress} has no authentication: other hosts that reach it can read the names of pools and their metrics`,
    ]);
});
