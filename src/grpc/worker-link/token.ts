import { hash as digest, randomBytes } from 'node:crypto';

/**
 * How a worker proves who it is, each time it dials (a hash chain, as in RFC 2289). A secret is given to it at its start.
 * The token of its n-th dial is the secret hashed `dialsMax - n` times, so each token is the hash of the next one. An agent
 * keeps the last token as its verifier: it can check the next token, and can make none. So the ledger, which holds the
 * verifier, gives nobody a token, and a token that was seen once is of no use again.
 */
export const dialsMax = 1_000;

const tokenBytes = 32;

export interface WorkerSecret {
  readonly secret: Buffer;
  /** The hash of the first token, 64 hexadecimal digits. */
  readonly verifier: string;
}

export function newWorkerSecret(): WorkerSecret {
  const secret = randomBytes(tokenBytes);
  let hash: Buffer = secret;
  for (let count = 0; count < dialsMax; count += 1) hash = sha256(hash);
  return { secret, verifier: hash.toString('hex') };
}

/**
 * The verifier of the next token; null: this one is not the worker's. A worker may have sent tokens that never reached
 * an agent, or that an agent did not note before it ended: so the chain is followed as far as it goes.
 */
export function acceptToken(token: string, verifier: string): string | null {
  if (!isToken(token)) return null;
  const expected = Buffer.from(verifier, 'hex');
  let hash: Buffer = Buffer.from(token, 'hex');
  for (let count = 0; count < dialsMax; count += 1) {
    hash = sha256(hash);
    if (hash.equals(expected)) return token;
  }
  return null;
}

/** A worker that was given PITWARDEN_TOKEN, by an agent that knew no secrets, sends that one token for as long as it lives. */
export function isRepeatedToken(token: string, verifier: string): boolean {
  return isToken(token) && digest('sha256', Buffer.from(token, 'hex'), 'hex') === verifier;
}

function isToken(token: string): boolean {
  return /^[0-9a-f]{64}$/.test(token);
}

function sha256(bytes: Buffer): Buffer {
  return digest('sha256', bytes, 'buffer');
}
