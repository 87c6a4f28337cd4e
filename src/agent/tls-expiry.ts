import type { Validity, ValidityState } from '../domain/validity.ts';
import { isUsable, validityAt } from '../domain/validity.ts';
import type { ExpiringFile, TlsFiles, TlsPaths } from '../os/certificates/tls-files.ts';
import { expiringFiles } from '../os/certificates/tls-files.ts';

/** What is to be said of the files of `tls` because of the time. All is worked out anew from the wall clock, which may jump. */

const followUps: Readonly<Record<ExpiringFile, string>> = {
  cert: 'clients refuse to connect',
  client_ca: 'no client with a certificate of that CA can connect',
  crl: 'no client can connect',
};

/** One sentence for each file that is not valid, or soon will not be. */
export function validityWarnings(files: TlsFiles, paths: TlsPaths, nowMs: number): string[] {
  return [...files.validity].flatMap(([file, validity]) => sentence(file, validity, paths, nowMs) ?? []);
}

/** One sentence if there are lists, but not of each CA. */
export function missingLists({ casWithoutList }: TlsFiles, { crl }: TlsPaths): string[] {
  if (casWithoutList.length === 0) return [];
  const got = `none of ${casWithoutList.join('; ')} in ${crl}`;
  return [`tls.crl: expected a list of each CA in tls.client_ca, got ${got}: ${followUps.client_ca}`];
}

function sentence(file: ExpiringFile, validity: Validity, paths: TlsPaths, nowMs: number): string | undefined {
  const path = { cert: paths.cert, client_ca: paths.clientCa, crl: paths.crl }[file];
  const [from, until] = [timeOf(validity.fromMs), timeOf(validity.untilMs)];
  const what = `tls.${file}: ${path}`;
  const end = file === 'crl' ? 'is due for its next update' : 'expires';
  switch (validityAt(validity, nowMs)) {
    case 'valid':
      return undefined;
    case 'early':
      return `${what} is not valid before ${from}: until then ${followUps[file]}`;
    case 'expiring':
      return `${what} ${end} at ${until}: from then on ${followUps[file]}`;
    case 'expired':
      return file === 'crl'
        ? `${what} was due for its next update at ${until}: ${followUps[file]}`
        : `${what} has expired at ${until}: ${followUps[file]}`;
  }
}

/** Calls `report` once each time that a file comes closer to its end. */
export function createExpiryWatch(paths: TlsPaths, report: (message: string) => void) {
  const states = new Map<ExpiringFile, ValidityState>();
  return (files: TlsFiles, nowMs: number): void => {
    for (const file of expiringFiles) {
      const validity = files.validity.get(file);
      if (validity === undefined) continue;
      const state = validityAt(validity, nowMs);
      if (state !== states.get(file)) {
        states.set(file, state);
        const message = sentence(file, validity, paths, nowMs);
        if (message !== undefined) report(message);
      }
    }
  };
}

/**
 * Why files that have changed are not to replace those before: a certificate or a list that cannot be used now would keep everybody
 * out, while that of before still lets them in. Undefined: they may.
 */
export function worseThan(before: TlsFiles, next: TlsFiles, paths: TlsPaths, nowMs: number): string | undefined {
  for (const file of ['cert', 'crl'] as const) {
    const [old, now] = [before.validity.get(file), next.validity.get(file)];
    if (old === undefined || now === undefined) continue;
    if (isUsable(old, nowMs) && !isUsable(now, nowMs)) return sentence(file, now, paths, nowMs);
  }
  return undefined;
}

function timeOf(ms: number): string {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? 'no time' : date.toISOString();
}
