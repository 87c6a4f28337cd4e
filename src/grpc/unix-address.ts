/**
 * The address of a unix socket's path as a URI, which gRPC's libraries read, except for grpc-js: that takes the path after
 * `unix:` as it is.
 */
export function unixAddress(path: string): string {
  const encoded = path.replace(/[^\w/.~!$&'()*+;=:@-]+/g, (text) =>
    [...Buffer.from(text)].map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  );
  return `unix:${encoded}`;
}

/** The path in such an address; undefined: it is none. */
export function pathOfUnixAddress(address: string): string | undefined {
  const encoded = /^unix:(?:\/\/(?=\/))?([^?#]+)/s.exec(address)?.[1];
  if (encoded === undefined) return undefined;
  return encoded.replace(/(?:%[0-9a-f]{2})+/gi, (text) => Buffer.from(text.replaceAll('%', ''), 'hex').toString());
}
