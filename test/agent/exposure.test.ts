import { expect, test } from 'vitest';
import { exposureWarnings } from '../../src/agent/exposure.ts';

test('gRPC over TCP causes a warning on any address, HTTP only beyond loopback', () => {
  expect(exposureWarnings({ listenAddress: '', httpAddress: '' })).toEqual([]);
  expect(exposureWarnings({ listenAddress: '', httpAddress: '127.0.0.1:9464' })).toEqual([]);
  expect(exposureWarnings({ listenAddress: '', httpAddress: '[::1]:9464' })).toEqual([]);
  expect(exposureWarnings({ listenAddress: '127.0.0.1:7000', httpAddress: '' })).toEqual([
    expect.stringMatching(
      /^listen: gRPC at 127\.0\.0\.1:7000 has no authentication: every user and process of this host/,
    ),
  ]);
  for (const httpAddress of ['0.0.0.0:9464', '[::]:9464', '192.0.2.7:9464'])
    expect(exposureWarnings({ listenAddress: '', httpAddress })).toEqual([
      `http: ${httpAddress} has no authentication: other hosts that reach it can read the names of pools and their metrics`,
    ]);
});
