// A unix socket that gives every byte back: node echo-socket.js SOCKET
import { createServer } from 'node:net';

const [, , path = ''] = process.argv;
createServer((connection) => {
  connection.pipe(connection);
}).listen(path, () => process.stdout.write('ready\n'));
