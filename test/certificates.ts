import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';

/** Certificates made by openssl, so that a mistake of ours in making them cannot hide one in reading them. */
export const hasOpenssl = (() => {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

export interface Certificate {
  /** Paths of files in PEM. */
  readonly cert: string;
  readonly key: string;
}

export interface IssueOptions {
  /** As openssl writes them: `URI:spiffe://…`, `IP:127.0.0.1`. */
  readonly names?: readonly string[];
  readonly from?: Date;
  readonly until?: Date;
}

const dayMs = 86_400_000;

/** A certificate authority in a folder of its own. */
export class TestAuthority {
  readonly #dir: string;
  readonly cert: string;
  readonly crl: string;

  constructor(dir: string) {
    this.#dir = dir;
    mkdirSync(join(dir, 'certs'), { recursive: true });
    this.cert = join(dir, 'ca.pem');
    this.crl = join(dir, 'crl.pem');
    writeFileSync(join(dir, 'index.txt'), '');
    writeFileSync(join(dir, 'index.txt.attr'), 'unique_subject = no\n');
    writeFileSync(
      join(dir, 'ca.cnf'),
      `[ca]
default_ca = own
[own]
dir = ${dir}
database = $dir/index.txt
new_certs_dir = $dir/certs
certificate = $dir/ca.pem
private_key = $dir/ca.key
rand_serial = yes
default_md = sha256
default_crl_days = 30
policy = any
copy_extensions = copy
[any]
commonName = supplied
`,
    );
    const usage = ['-addext', 'basicConstraints=critical,CA:TRUE', '-addext', 'keyUsage=critical,keyCertSign,cRLSign'];
    this.#newKey(join(dir, 'ca.key'));
    this.#openssl(
      'req',
      '-x509',
      '-key',
      join(dir, 'ca.key'),
      '-subj',
      `/CN=${basename(dir)}`,
      '-days',
      '30',
      ...usage,
      '-out',
      this.cert,
    );
    this.writeCrl();
  }

  issue(name: string, { names = [], from, until }: IssueOptions = {}): Certificate {
    const [key, request, cert] = ['key', 'csr', 'pem'].map((ending) => join(this.#dir, `${name}.${ending}`));
    if (key === undefined || request === undefined || cert === undefined) throw new Error('unreachable');
    this.#newKey(key);
    const alternative = names.length === 0 ? [] : ['-addext', `subjectAltName=${names.join(',')}`];
    this.#openssl('req', '-new', '-key', key, '-subj', `/CN=${name}`, ...alternative, '-out', request);
    const dates = [
      ...['-startdate', dateOf(from ?? new Date(Date.now() - dayMs))],
      ...['-enddate', dateOf(until ?? new Date(Date.now() + dayMs))],
    ];
    this.#ca('-in', request, '-out', cert, '-notext', ...dates);
    return { cert, key };
  }

  revoke({ cert }: Certificate): void {
    this.#ca('-revoke', cert);
    this.writeCrl();
  }

  /** `days`: from now to the next update. Negative: it was due before. */
  writeCrl({ days = 30 } = {}): void {
    const dates = [
      '-crl_lastupdate',
      dateOf(new Date(Date.now() - 2 * dayMs)),
      '-crl_nextupdate',
      dateOf(new Date(Date.now() + days * dayMs)),
    ];
    this.#ca('-gencrl', ...dates, '-out', this.crl);
  }

  #newKey(path: string): void {
    this.#openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', path);
  }

  #ca(...args: string[]): void {
    this.#openssl('ca', '-batch', '-config', join(this.#dir, 'ca.cnf'), ...args);
  }

  #openssl(...args: string[]): void {
    execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  }
}

/** As ASN.1 writes it: 20261130074500Z. */
function dateOf(date: Date): string {
  return `${date.toISOString().replace(/\D/g, '').slice(0, 14)}Z`;
}
