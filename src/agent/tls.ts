import type { TlsConfig } from '../config/load.ts';
import type { TcpAccess } from '../grpc/access/tcp-access.ts';
import { insecureAccess, tlsAccess } from '../grpc/access/tcp-access.ts';
import { MutualTlsCredentials } from '../grpc/access/tls-credentials.ts';
import type { TlsFiles } from '../os/certificates/tls-files.ts';
import { readTlsFiles, signatureOf } from '../os/certificates/tls-files.ts';
import type { Log } from '../telemetry/log.ts';

/** How callers over TCP are let in. The files of `tls` are read again when they change. */
export interface Tls {
  readonly access: TcpAccess;
  /** What is wrong with the files as they are now; empty: nothing. The agent goes on with the last good ones. */
  problem(): string;
  /** Looks at the files every 5 s. `renew` makes callers connect again: who was let in by earlier files may not be by these. */
  watch(renew: () => void): void;
  close(): void;
}

const lookEveryMs = 5_000;

/** Throws if a file of `tls` cannot be used. */
export async function openTls(
  config: TlsConfig | null,
  listenInsecureControl: boolean,
  log: Pick<Log, 'info' | 'warn'>,
): Promise<Tls> {
  if (config === null) {
    const access = insecureAccess(listenInsecureControl);
    return { access, problem: () => '', watch: () => undefined, close: () => undefined };
  }
  let signature = await signatureOf(config);
  const read = await readTlsFiles(config);
  if (!read.ok) throw new Error(read.problem);
  let { files } = read;
  let problem = '';
  let timer: NodeJS.Timeout | undefined;
  const credentials = new MutualTlsCredentials(files);

  const look = async (renew: () => void): Promise<void> => {
    const now = await signatureOf(config);
    // While a file is wrong it is read again: it may be half written.
    if (now === signature && problem === '') return;
    signature = now;
    const next = await readTlsFiles(config);
    if (!next.ok) {
      if (next.problem !== problem)
        log.warn(`${next.problem}; the agent goes on with the files that it has read before`);
      problem = next.problem;
      return;
    }
    problem = '';
    const before = files;
    files = next.files;
    if (files.digest === before.digest) return;
    credentials.replace(files);
    log.info(
      `tls: the files have changed, and hold for new connections; the certificate expires at ${new Date(files.expiresAtMs).toISOString()}`,
    );
    if (mayExclude(before, files)) renew();
  };

  return {
    access: tlsAccess(credentials, config, config.connectionMaxAgeMs),
    problem: () => problem,
    watch: (renew) => {
      let looking = false;
      timer = setInterval(() => {
        // A disk may take longer than the interval.
        if (looking) return;
        looking = true;
        look(renew)
          .catch((error: unknown) => log.warn(`tls: ${String(error)}`))
          .finally(() => {
            looking = false;
          });
      }, lookEveryMs).unref();
    },
    close: () => clearInterval(timer),
  };
}

/** Whether a client that was let in by the files of before may not be let in by these. */
function mayExclude(before: TlsFiles, now: TlsFiles): boolean {
  if (!before.clientCa.equals(now.clientCa)) return true;
  return now.crls.some((list) => !before.crls.some((earlier) => earlier.equals(list)));
}
