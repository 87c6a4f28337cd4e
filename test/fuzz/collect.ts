import { createServer } from 'node:net';
import { isMainThread } from 'node:worker_threads';

/**
 * Loaded into the agent before its own code (`node --expose-gc --import`). Each connection to the socket COLLECT_SOCKET
 * collects garbage and answers with the bytes that the agent still holds.
 */

const path = process.env['COLLECT_SOCKET'];
if (isMainThread && path !== undefined) {
  const server = createServer((socket) => {
    globalThis.gc?.();
    const { heapUsed, external } = process.memoryUsage();
    socket.on('error', () => undefined);
    socket.end(JSON.stringify(heapUsed + external));
  });
  server.on('error', () => undefined);
  server.listen(path);
  server.unref();
}
