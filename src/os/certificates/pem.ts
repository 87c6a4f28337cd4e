/** The blocks of a file in PEM. Throws if there is none, or if one is not whole. */
export function blocksOf(pem: Buffer): Buffer[] {
  const text = pem.toString('latin1');
  const blocks = text.match(/-----BEGIN ([A-Z0-9 ]+)-----[^-]+-----END \1-----/g) ?? [];
  const begun = text.split('-----BEGIN ').length - 1;
  if (blocks.length === 0 || begun !== blocks.length) throw new Error('expected whole blocks');
  return blocks.map((block) => Buffer.from(`${block}\n`, 'latin1'));
}

/** What a block encodes. */
export function bytesOfBlock(block: Buffer): Buffer {
  return Buffer.from(block.toString('latin1').replace(/-----[A-Z0-9 ]+-----/g, ''), 'base64');
}
