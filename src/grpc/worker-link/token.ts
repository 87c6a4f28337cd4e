import { hash as digest, randomBytes } from 'node:crypto';

/**
 * How often a worker can dial. It proves who it is each time with a token of a hash chain (as in RFC 2289). The worker gets a
 * secret at its start. The token of the n-th dial is the secret hashed `dialsMax - n` times, so each token is the hash of the
 * next one. The agent keeps the last token as its verifier: with it the agent can check the next token, but cannot make it. So
 * the ledger, which holds the verifier, gives nobody a token, and a token that was seen once cannot be used again.
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
 * Returns the verifier for the next token; null: the token is not the worker's. Earlier tokens may never have reached an agent, or
 * the agent may have ended before it stored them, so the whole chain is tried.
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

/** A worker that an older agent started with PITWARDEN_TOKEN in place of a secret sends the same token for its whole life. */
export function isRepeatedToken(token: string, verifier: string): boolean {
  return isToken(token) && digest('sha256', Buffer.from(token, 'hex'), 'hex') === verifier;
}

function isToken(token: string): boolean {
  return /^[0-9a-f]{64}$/.test(token);
}

function sha256(bytes: Buffer): Buffer {
  return digest('sha256', bytes, 'buffer');
}
