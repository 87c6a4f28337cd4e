import type { Validity } from '../domain/validity.ts';

/** The files of `tls`, as the gauges read them at each scrape. */
export interface TlsNumbers {
  readonly validity: ReadonlyMap<string, Validity>;
  /** The files in force are those on disk. */
  readonly isReloaded: boolean;
}

type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

/** Described in docs/metrics.md. Without `tls` they have no series. */
export const tlsGauges: readonly {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  read(tls: TlsNumbers): readonly Sample[];
}[] = [
  {
    name: 'pitwarden_tls_expiry_timestamp_seconds',
    help: 'When the certificate, the first of the CAs and the first of the revocation lists in force expire.',
    labels: ['file'],
    read: ({ validity }) =>
      [...validity]
        .filter(([, { untilMs }]) => Number.isFinite(untilMs))
        .map(([file, { untilMs }]): Sample => [{ file }, untilMs / 1000]),
  },
  {
    name: 'pitwarden_tls_last_reload_successful',
    help: '1 while the files of tls in force are those on disk, 0 while a changed one cannot be used.',
    labels: [],
    read: ({ isReloaded }) => [[{}, isReloaded ? 1 : 0]],
  },
];
