import type { TlsConfig } from '../config/load.ts';
import type { TlsRecord } from '../domain/event.ts';
import type { TcpAccess } from '../grpc/access/tcp-access.ts';
import { insecureAccess, tlsAccess } from '../grpc/access/tcp-access.ts';
import { MutualTlsCredentials } from '../grpc/access/tls-credentials.ts';
import type { TlsFiles } from '../os/certificates/tls-files.ts';
import { readTlsFiles, signatureOf } from '../os/certificates/tls-files.ts';
import type { TlsNumbers } from '../telemetry/tls-gauges.ts';
import { createExpiryWatch, missingLists, validityWarnings, worseThan } from './tls-expiry.ts';

/** How callers over TCP are let in. The files of `tls` are read again when they change. */
export interface Tls {
  readonly access: TcpAccess;
  /**
   * One sentence for each thing that is wrong with the files as they are now; the agent goes on with the last good ones. The same for
   * each of those in force that expires soon.
   */
  warnings(): string[];
  /** Those of the warnings that are no events. */
  incomplete(): string[];
  /** Null: there are no files. */
  numbers(): TlsNumbers | null;
  /** Looks at the files every 5 s. */
  watch(followers: TlsFollowers): void;
  close(): void;
}

export interface TlsFollowers {
  /** Makes all clients over TCP connect again: a CA that let them in may be trusted no more. */
  renew(): void;
  /** Cuts the connections whose certificates are revoked now. */
  endRevoked(): void;
  report(record: TlsRecord): void;
}

const lookEveryMs = 5_000;

/** Throws if a file of `tls` cannot be used. One that has expired can: it keeps clients out, and is warned of. */
export async function openTls(config: TlsConfig | null, listenInsecureControl: boolean): Promise<Tls> {
  if (config === null) {
    const access = insecureAccess(listenInsecureControl);
    return {
      access,
      warnings: () => [],
      incomplete: () => [],
      numbers: () => null,
      watch: () => undefined,
      close: () => undefined,
    };
  }
  const signature = await signatureOf(config);
  const read = await readTlsFiles(config);
  if (!read.ok) throw new Error(read.problem);
  return new WatchedTls(config, read.files, signature);
}

class WatchedTls implements Tls {
  readonly access: TcpAccess;
  readonly #config: TlsConfig;
  readonly #credentials: MutualTlsCredentials;
  /** The last good ones. */
  #files: TlsFiles;
  #signature: string;
  /** Why the files as they are now are not in force; empty: they are. */
  #problem = '';
  #timer: NodeJS.Timeout | undefined;

  constructor(config: TlsConfig, files: TlsFiles, signature: string) {
    this.#config = config;
    this.#files = files;
    this.#signature = signature;
    this.#credentials = new MutualTlsCredentials(files);
    this.access = tlsAccess(this.#credentials, config, config.connectionMaxAgeMs, (certificate) =>
      this.#files.revocations.isRevoked(certificate),
    );
  }

  warnings(): string[] {
    const problems = this.#problem === '' ? [] : [this.#problem];
    return [...problems, ...validityWarnings(this.#files, this.#config, Date.now()), ...this.incomplete()];
  }

  incomplete(): string[] {
    return missingLists(this.#files, this.#config);
  }

  numbers(): TlsNumbers {
    return { validity: this.#files.validity, isReloaded: this.#problem === '' };
  }

  watch(followers: TlsFollowers): void {
    const watchExpiry = createExpiryWatch(this.#config, (message) =>
      followers.report({ kind: 'tls_expiring', message }),
    );
    watchExpiry(this.#files, Date.now());
    let looking = false;
    this.#timer = setInterval(() => {
      // A disk may take longer than the interval.
      if (looking) return;
      looking = true;
      this.#look(followers)
        .then(() => watchExpiry(this.#files, Date.now()))
        .catch((error: unknown) => followers.report({ kind: 'tls_refused', message: `tls: ${String(error)}` }))
        .finally(() => {
          looking = false;
        });
    }, lookEveryMs).unref();
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #look(followers: TlsFollowers): Promise<void> {
    const now = await signatureOf(this.#config);
    // While a file is wrong it is read again: it may be half written, or become valid at its time.
    if (now === this.#signature && this.#problem === '') return;
    this.#signature = now;
    const before = this.#files;
    const { files, problem } = await this.#readUsable(before);
    if (problem !== '' && problem !== this.#problem) {
      const message = `${problem}; the agent goes on with the files that it has read before`;
      followers.report({ kind: 'tls_refused', message });
    }
    this.#problem = problem;
    if (files === undefined || files.digest === before.digest) return;
    this.#files = files;
    this.#credentials.replace(files);
    const until = new Date(files.validity.get('cert')?.untilMs ?? 0).toISOString();
    const message = `tls: the files have changed, and hold for new connections; the certificate expires at ${until}`;
    followers.report({ kind: 'tls_reloaded', message });
    if (trustsFewer(before, files)) followers.renew();
    if (revokesOthers(before, files)) followers.endRevoked();
  }

  /**
   * The files on disk, as far as they can be used. A certificate and key that cannot must not hold up a revocation, nor may a bad list
   * hold up a new certificate. `problem`: why some of them cannot be used; empty: all can.
   */
  async #readUsable({ cert, key, clientCa, crl }: TlsFiles): Promise<{ files: TlsFiles | undefined; problem: string }> {
    const problems: string[] = [];
    for (const kept of [{}, { cert, key }, { clientCa, crl }]) {
      const read = await readTlsFiles(this.#config, kept);
      const problem = read.ok ? worseThan(this.#files, read.files, this.#config, Date.now()) : read.problem;
      if (read.ok && problem === undefined) return { files: read.files, problem: problems[0] ?? '' };
      problems.push(problem ?? '');
    }
    return { files: undefined, problem: problems[0] ?? '' };
  }
}

/** Whether a CA is not trusted any more that has let clients in. */
function trustsFewer(before: TlsFiles, now: TlsFiles): boolean {
  return [...before.caFingerprints].some((fingerprint) => !now.caFingerprints.has(fingerprint));
}

function revokesOthers(before: TlsFiles, now: TlsFiles): boolean {
  return now.crls.some((list) => !before.crls.some((earlier) => earlier.equals(list)));
}
