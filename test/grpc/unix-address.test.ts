import { expect, test } from 'vitest';
import { pathOfUnixAddress, unixAddress } from '../../src/grpc/unix-address.ts';

test('unixAddress escapes each character of a path that has a meaning in a URI', () => {
  expect(unixAddress('/run/pitwarden/agent.sock')).toBe('unix:/run/pitwarden/agent.sock');
  expect(unixAddress('/C#/what?/50%25/a,b c/é')).toBe('unix:/C%23/what%3F/50%2525/a%2Cb%20c/%C3%A9');
  // A path that is not valid Unicode must not throw.
  expect(unixAddress('/\ud800')).toBe('unix:/%EF%BF%BD');
});

test('pathOfUnixAddress reads unix addresses as gRPC does, and no others', () => {
  for (const path of ['/run/agent.sock', '/C#/what?/50%25/a,b c/é', '/a\nb', 'relative.sock']) {
    expect(pathOfUnixAddress(unixAddress(path))).toBe(path);
  }
  expect(pathOfUnixAddress('unix:///run/agent.sock')).toBe('/run/agent.sock');
  expect(pathOfUnixAddress('unix:/100%/a.sock?x#y')).toBe('/100%/a.sock');
  for (const path of ['/run/agent.sock', 'localhost:1', 'unix-abstract:a', 'unix:']) {
    expect(pathOfUnixAddress(path)).toBe(undefined);
  }
});
