/**
 * The address of a unix socket as a URI, which all gRPC libraries but grpc-js understand. grpc-js takes everything after `unix:`
 * as the path.
 */
export function unixAddress(path: string): string {
  const encoded = path.replace(/[^\w/.~!$&'()*+;=:@-]+/g, (text) =>
    [...Buffer.from(text)].map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  );
  return `unix:${encoded}`;
}

/** The path in such an address; undefined: it is no unix address. */
export function pathOfUnixAddress(address: string): string | undefined {
  const encoded = /^unix:(?:\/\/(?=\/))?([^?#]+)/s.exec(address)?.[1];
  if (encoded === undefined) return undefined;
  return encoded.replace(/(?:%[0-9a-f]{2})+/gi, (text) => Buffer.from(text.replaceAll('%', ''), 'hex').toString());
}
