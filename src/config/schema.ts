import type { z } from 'zod';
import { defaultTrustDomain, trustDomainPattern } from '../domain/certificate-identity.ts';
import { nodeIdPattern, poolNamePattern } from '../domain/names.ts';
import { addressPattern, parseHttp } from './address.ts';
import { parseArguments } from './arguments.ts';
import { parseEnvValue } from './env.ts';
import { parseGroup } from './group.ts';
import {
  choice,
  duration,
  durationOrOff,
  effects,
  linkDurationMaxMs,
  map,
  nonEmptyText,
  pattern,
  quantity,
  section,
  sectionBody,
  share,
  size,
  sizeOrOff,
  takingEffect,
  whole,
  wholeOrOff,
  yesOrNo,
} from './keys.ts';
import { show } from './units.ts';

/**
 * Every key of the configuration: its default, its unit and one sentence. The loader, the JSON schema for editors and
 * docs/configuration.md are all generated from this file.
 * A section's rules are checked even if some of its keys are invalid, so that one run reports everything.
 */

const appPattern = '^[A-Za-z_]\\w*(\\.[A-Za-z_]\\w*)*:[A-Za-z_]\\w*(\\.[A-Za-z_]\\w*)*$';
const variablePattern = '^[A-Za-z_][A-Za-z0-9_]*$';

/** A pattern without its anchors. */
const inner = (pattern: string): string => pattern.slice(1, -1);
const grantPattern = `^(role/(viewer|operator|caller)|role/caller/pool/${inner(poolNamePattern)}|controller/${inner(nodeIdPattern)})$`;
const identityPattern = '^[A-Za-z][A-Za-z0-9+.-]*:[^\\s",]{1,1000}$';

const { atOnce, replacing, nextWorker, nextStart } = effects;

const start = section({
  ...takingEffect(replacing, {
    mode: choice(['exec'])
      .prefault('exec')
      .meta({ description: 'How a worker is started: `exec` runs a fresh interpreter.' }),
  }),
  ...takingEffect(nextWorker, {
    timeout: duration('60s', 'Longest time from the spawn of a worker until it is attached and ready.', {
      minMs: 500,
    }),
  }),
  ...takingEffect(atOnce, {
    parallel: whole(1, 1000, 4, 'workers', 'How many workers of the pool may be starting at once.'),
  }),
  ...takingEffect(nextWorker, {
    warm_up: nonEmptyText().optional().meta({
      description:
        'Command that a new worker runs once before it is ready, within `start.timeout`. If the command fails, the start fails.',
      unit: 'command',
      fallback: 'none',
    }),
    warm_up_args: quantity(parseArguments, { type: ['object', 'array'] })
      .prefault({})
      .meta({
        description: 'Arguments of `warm_up`: a map of keyword arguments, or a list of positional ones.',
        unit: 'map or list',
      }),
  }),
});

const heartbeat = section(
  takingEffect(atOnce, {
    interval: duration('2s', 'How often the agent pings each worker.', { minMs: 100 }),
    timeout: duration('10s', 'How long a ping may stay unanswered before it counts as missed.', { minMs: 100 }),
    max_missed: whole(1, 1000, 3, 'pings', 'How many pings in a row may be missed before the worker counts as hung.'),
    busy_limit: duration(
      '5m',
      'How long a worker may miss pings while it uses CPU or still sends results. Then it counts as hung.',
      {
        minMs: 100,
      },
    ),
  }),
  [
    { keys: ['timeout', 'interval'], needs: 'timeout to be no shorter than interval', holds: (a, b) => a >= b },
    { keys: ['busy_limit', 'timeout'], needs: 'busy_limit to be no shorter than timeout', holds: (a, b) => a >= b },
  ],
);

const memory = section(
  takingEffect(atOnce, {
    soft: sizeOrOff(
      'off',
      'The worker is drained and replaced when its whole process tree uses more memory than this.',
    ),
    hard: sizeOrOff('off', 'The worker is killed when its whole process tree uses more memory than this.'),
    samples: whole(
      1,
      30,
      2,
      'samples',
      'How many of the last `of` samples must be over `soft` before the worker is replaced. There is one sample a second.',
    ),
    of: whole(
      1,
      30,
      3,
      'samples',
      'How many of the latest samples are looked at. A short peak is in too few of them to count.',
    ),
  }),
  [
    {
      keys: ['hard', 'soft'],
      needs: 'hard to be larger than soft',
      holds: (hard, soft) => hard === 0 || soft === 0 || hard > soft,
    },
    { keys: ['samples', 'of'], needs: 'samples to be no more than of', holds: (samples, of) => samples <= of },
  ],
);

const recycle = section(
  {
    ...takingEffect(nextWorker, {
      max_age: durationOrOff('off', 'Age at which a worker is replaced.', { minMs: 1_000 }),
      max_requests: wholeOrOff(
        'off',
        'requests',
        'Number of requests after which a worker is replaced. Failed requests count too.',
      ),
    }),
    ...takingEffect(atOnce, {
      max_idle: durationOrOff(
        'off',
        'A worker that has served requests is replaced after this time without any, to free the memory that it holds.',
        { minMs: 1_000, maxMs: 24 * 86_400_000 },
      ),
    }),
    memory: memory.meta({ description: 'Limits on the memory of a worker and all its descendants.' }),
    ...takingEffect(nextWorker, {
      jitter: share(
        0.9,
        0.1,
        'Each worker gets its own `max_age` and `max_requests`, up to this share below the configured ones, so that workers that started together are not replaced together.',
      ),
    }),
    ...takingEffect(atOnce, {
      max_surge: whole(
        0,
        1000,
        1,
        'workers',
        'How many workers above `size` may exist during replacements. With 0 each worker has its `{slot}` (a GPU, a port) to itself: the next worker starts in a slot only when the previous one and every process that it started are gone. Processes that outlive SIGKILL by 10 s are logged and not waited for.',
      ),
      max_unavailable: whole(
        0,
        1000,
        0,
        'workers',
        'How many workers below `size` the pool may have during replacements.',
      ),
      min_lifetime: durationOrOff(
        '1s',
        'Shortest time that a worker serves before a planned replacement. A new configuration, a roll and `recycle` do not wait for it.',
      ),
    }),
  },
  [
    {
      keys: ['max_unavailable', 'max_surge'],
      needs: 'max_surge or max_unavailable to be at least 1: with both 0 no worker could ever be replaced',
      holds: (unavailable, surge) => unavailable > 0 || surge > 0,
    },
    {
      keys: ['min_lifetime', 'max_age'],
      needs: 'min_lifetime to be shorter than max_age',
      holds: (lifetime, age) => age === 0 || lifetime < age,
    },
  ],
);

const backoff = section(
  takingEffect(atOnce, {
    min: duration('500ms', 'Wait before the first restart after a crash. Each further crash doubles the wait.', {
      minMs: 10,
    }),
    max: duration('30s', 'Longest wait before a restart.', { minMs: 10 }),
  }),
  [{ keys: ['max', 'min'], needs: 'max to be no shorter than min', holds: (max, min) => max >= min }],
);

const restart = section({
  backoff: backoff.meta({ description: 'Waits between the restarts in a slot whose workers crash.' }),
  ...takingEffect(atOnce, {
    reset_after: duration(
      '60s',
      'How long a worker must stay up before the earlier crashes of its slot no longer count.',
      {
        minMs: 100,
      },
    ),
    quarantine_after: whole(
      1,
      1000,
      3,
      'failed starts',
      'After this many failed starts in a row with a changed config, the pool goes back to the last config that worked.',
    ),
  }),
});

const drain = section(
  takingEffect(atOnce, {
    timeout: duration(
      '30s',
      'How long the running requests of a draining worker may take to finish. A reload does not change the limit of a drain that has begun.',
      { minMs: 0, maxMs: linkDurationMaxMs },
    ),
    kill_after: duration('10s', 'How long a worker may take to exit after it was asked to stop. Then it is killed.', {
      minMs: 0,
      maxMs: linkDurationMaxMs,
    }),
  }),
);

const queue = section(
  takingEffect(atOnce, {
    max_requests: whole(1, 1_000_000, 1000, 'requests', 'How many requests may wait for a free worker.'),
    max_bytes: size('64MiB', 'How many bytes of payload the waiting requests may hold together.'),
  }),
);

const keep = section(
  takingEffect(atOnce, {
    for: duration(
      '60s',
      'How long a request keeps running after its caller lost the connection, and how long its answer is kept for a caller that sends the `request_id` again.',
      { minMs: 100, maxMs: linkDurationMaxMs },
    ),
    max_results: whole(0, 100_000, 1000, 'results', 'How many such answers one worker keeps. 0: none.'),
    max_bytes: size('16MiB', 'How many bytes of payload the kept answers of one worker may have together.'),
  }),
);

const request = section({
  ...takingEffect(atOnce, {
    timeout: duration('60s', 'Deadline of a request whose caller sets none.', { minMs: 10 }),
    max_attempts: whole(
      1,
      100,
      3,
      'attempts',
      'How often an idempotent request may be sent to a worker, the first time included.',
    ),
    kill_after: durationOrOff(
      '30s',
      'How long a worker may go on with a request after its deadline. Then the worker is killed and replaced.',
      { minMs: 100 },
    ),
    session_affinity: choice(['off', 'hint', 'strict']).prefault('off').meta({
      description:
        'Whether requests with the same `session_id` go to the same worker. `hint`: while that worker has a free place; otherwise to another. `strict`: they wait for that worker as long as it takes requests.',
    }),
  }),
  keep: keep.meta({
    description: 'Answers kept for callers that lost their connection. Only requests with a `request_id` have them.',
  }),
});

const poison = section(
  takingEffect(atOnce, {
    after: wholeOrOff(
      3,
      'crashes',
      'A request is refused once this many workers have crashed while they ran the same request.',
    ),
    for: duration('10m', 'How long the request is refused, counted from the last crash.', { minMs: 1_000 }),
  }),
);

const telemetry = section(
  takingEffect(atOnce, {
    max_series: whole(
      0,
      100_000,
      5_000,
      'series',
      "How many series the measurements of the pool's applications may have in /metrics together. One set of labels of a counter or gauge is one series, one of a histogram 22 or 29. New series beyond that are dropped and counted. 0: no telemetry.",
    ),
  }),
);

const limits = section(
  takingEffect(replacing, {
    pids: wholeOrOff(
      'off',
      'processes and threads',
      "How many processes and threads a worker's tree may have. Without a pids controller the kernel counts them for the agent's user as a whole, and does not limit root. Then all pools share the sum of their workers' limits, and nothing is limited while any pool has no `limits.pids`. The agent warns when the limit cannot be enforced.",
    ),
    memory: sizeOrOff(
      'off',
      "How much memory a worker's tree may have. Beyond it the kernel kills the worker. Without a memory controller the limit holds for the data of each process by itself (RLIMIT_DATA), and allocations beyond it fail.",
    ),
    open_files: wholeOrOff('off', 'files', 'How many open files, sockets included, each process of a worker may have.'),
  }),
);

const pool = sectionBody({
  ...takingEffect(replacing, {
    app: pattern(appPattern, 'module:attribute of a pitwarden.App, such as text:app').meta({
      description: 'Module and attribute of the `pitwarden.App` that the workers serve.',
      unit: '`module:attribute`',
    }),
    python: nonEmptyText().prefault('python3').meta({
      description:
        "Python interpreter. A path with a slash is relative to the config file's folder; a bare name is looked up in PATH. A wrapper script must pass its standard input or its file descriptor 3 on to the interpreter.",
      unit: 'path or name',
    }),
    cwd: nonEmptyText().prefault('.').meta({
      description: "Working directory of the workers, relative to the config file's folder.",
      unit: 'path',
    }),
    env: map(quantity(parseEnvValue, { type: ['string', 'number', 'boolean'] }), variablePattern, checkVariable)
      .prefault({})
      .meta({
        description:
          "Environment variables. `{slot}` becomes the number of the worker's slot, from 0, and `{pool}` the pool's name; write `{{` and `}}` for plain braces. " +
          'With `recycle.max_surge: 0` no two live workers have the same `{slot}`. Otherwise a replacement has the `{slot}` ' +
          'of the worker that it replaces while both run: up to 1 + `max_surge` workers share it.',
        unit: 'map of texts',
      }),
  }),
  ...takingEffect(atOnce, { size: whole(0, 1000, 1, 'workers', 'How many workers the pool keeps.') }),
  ...takingEffect(replacing, {
    concurrency: whole(1, 1000, 1, 'requests', 'How many requests one worker may run at once.'),
  }),
  start: start.meta({ description: 'How workers start.' }),
  heartbeat: heartbeat.meta({ description: 'How the agent tells a hung worker from a busy one.' }),
  recycle: recycle.meta({ description: 'When and how workers are replaced.' }),
  restart: restart.meta({ description: 'What happens after a crash.' }),
  drain: drain.meta({ description: 'How a worker is drained and stopped.' }),
  limits: limits.meta({
    description:
      "Limits that the kernel enforces: by the worker's cgroup if that has the controllers, otherwise by resource limits.",
  }),
  ...takingEffect(atOnce, {
    orphan_timeout: duration(
      '60s',
      'How long a worker waits for an agent after it lost its own. Then it drains and exits by itself.',
      // With less, the worker would exit before its first attempt to dial.
      { minMs: 1_000, maxMs: linkDurationMaxMs },
    ),
  }),
  queue: queue.meta({
    description: 'Limits on waiting requests. Requests beyond them are refused with RESOURCE_EXHAUSTED.',
  }),
  request: request.meta({ description: 'How requests are handled.' }),
  poison: poison.meta({ description: 'Requests that crash their workers are refused with FAILED_PRECONDITION.' }),
  telemetry: telemetry.meta({ description: 'Limits on what applications measure with `emit` and `span`.' }),
});

export const schema = sectionBody({
  node: section(
    takingEffect(nextStart, {
      id: pattern(nodeIdPattern, 'a name of letters, digits, dots, _ and -')
        .optional()
        .meta({ description: 'Name of this host in views and metrics.', unit: 'name', fallback: 'the host name' }),
    }),
  ).meta({ description: 'The identity of this agent.' }),
  ...takingEffect(nextStart, {
    runtime_dir: nonEmptyText().optional().meta({
      description: 'Folder of the sockets, including `agent.sock` and `control.sock`.',
      unit: 'path',
      fallback:
        '`/run/pitwarden` as root, else `$XDG_RUNTIME_DIR/pitwarden`, else `pitwarden-UID` in the temporary folder',
    }),
    socket_group: quantity(parseGroup, { anyOf: [{ type: 'string' }, { type: 'integer', minimum: 0 }] })
      .optional()
      .meta({
        description:
          "Group whose members may call the agent: run commands, and read. It may use `agent.sock` (mode 0660) and enter the runtime directory. The agent's user must be a member. A socket that systemd made keeps the group of its unit (`SocketGroup=`).",
        unit: 'name or number',
        fallback: "none: only the agent's own user and root may call (mode 0600)",
      }),
    control_group: quantity(parseGroup, { anyOf: [{ type: 'string' }, { type: 'integer', minimum: 0 }] })
      .optional()
      .meta({
        description:
          "Group whose members may command the agent: stop, scale, drain, hand over. It may use `control.sock` (mode 0660). The agent's user must be a member. If `socket_group` or systemd names another group for `agent.sock`, the members must be in that one too, because it owns the folder.",
        unit: 'name or number',
        fallback: "none: only the agent's own user and root may command (mode 0600)",
      }),
    state_dir: nonEmptyText().optional().meta({
      description: 'Folder of the data that must survive a restart of the agent.',
      unit: 'path',
      fallback: '`/var/lib/pitwarden` as root, else `$XDG_STATE_HOME/pitwarden`, else `~/.local/state/pitwarden`',
    }),
    http: quantity(parseHttp, { type: 'string', pattern: `^off$|${addressPattern}` })
      .prefault('127.0.0.1:9464')
      .meta({
        description: 'Address of /metrics, /healthz and /readyz. Port 0 picks a free port.',
        unit: '`HOST:PORT` or `off`',
      }),
    http_allow_remote: yesOrNo(
      false,
      'Whether `http` may be an address beyond loopback. There is no authentication: whoever can reach the address can read names and counts.',
    ),
  }),
  ...takingEffect(atOnce, {
    memory_floor: sizeOrOff(
      '256MiB',
      'Least available memory of the host (MemAvailable). Below it a worker is stopped before its replacement starts, and the worker that has grown most, and still grows, is replaced.',
    ),
  }),
  ...takingEffect(nextStart, {
    listen: quantity(parseHttp, { type: 'string', pattern: `^off$|${addressPattern}` })
      .prefault('off')
      .meta({
        description:
          'Address for gRPC over TCP, in addition to the unix socket. Port 0 picks a free port. With `tls` the certificate of each client says what it may do. Without, only a loopback address is accepted, and every user and process of this host can run commands through it; the agent warns of this at its start and in `status`.',
        unit: '`HOST:PORT` or `off`',
      }),
    listen_insecure_control: yesOrNo(
      false,
      'Without `tls`: whether `listen` serves Control too. Every user and process of this host can then stop workers and drain the node. Otherwise such calls are refused with PERMISSION_DENIED.',
    ),
  }),
  tls: section(
    takingEffect(nextStart, {
      cert: nonEmptyText().optional().meta({
        description:
          "The agent's certificate for `listen`, in PEM, followed by those between it and its CA. It and the other files are read again when they change; if they cannot be used, the agent goes on with what it has read before.",
        unit: 'path',
        fallback: 'none: no TLS',
      }),
      key: nonEmptyText()
        .optional()
        .meta({ description: 'The private key of `cert`, in PEM without a passphrase.', unit: 'path' }),
      client_ca: nonEmptyText().optional().meta({
        description:
          'The CAs that certificates of clients must come from, in PEM. A client without such a certificate cannot connect.',
        unit: 'path',
      }),
      crl: nonEmptyText().optional().meta({
        description:
          'Revoked certificates (CRL), in PEM: one list of each CA in `client_ca`, signed by that CA. When it changes, the connections of revoked certificates are cut with their calls. After its next update is due, no client can connect.',
        unit: 'path',
        fallback: 'none',
      }),
      domain: pattern(trustDomainPattern, `a trust domain such as ${defaultTrustDomain}`)
        .prefault(defaultTrustDomain)
        .meta({
          description:
            'The trust domain: `spiffe://DOMAIN/role/viewer`, `…/role/operator`, `…/controller/NAME`, `…/role/caller` and `…/role/caller/pool/POOL` among the URIs of a certificate say what its owner may do. A certificate with several has all their roles.',
          unit: 'text',
        }),
      identities: map(
        pattern(grantPattern, 'role/viewer, role/operator, role/caller, role/caller/pool/POOL or controller/NAME'),
        identityPattern,
        checkIdentity,
      )
        .prefault({})
        .meta({
          description:
            'Roles of certificates that name none: each key is a URI of a certificate, and its value what follows the domain above, such as `spiffe://corp/ns/ops: role/operator`.',
          unit: 'map of texts',
        }),
      max_connection_age: duration(
        '1h',
        'How long a connection of a client may last. Then its calls may go on for 30 s, and the client connects again, so that its certificate is verified again.',
        { minMs: 1_000 },
      ),
    }),
  ).meta({ description: 'TLS 1.3 for `listen`, with certificates of clients (mTLS).' }),
  log: section(
    takingEffect(nextStart, {
      level: choice(['trace', 'debug', 'info', 'warn', 'error'])
        .prefault('info')
        .meta({ description: 'Lowest level of log lines that are written.' }),
      format: choice(['pretty', 'json']).optional().meta({
        description: 'Format of log lines: for people (`pretty`) or for programs (`json`).',
        fallback: '`pretty` on a terminal, else `json`',
      }),
    }),
  ).meta({ description: 'The log of the agent and its workers.' }),
  message: section(
    takingEffect(nextStart, {
      max_bytes: size('64MiB', 'Largest request or response in bytes.', 2 ** 30),
      budget: size(
        '512MiB',
        'Bytes that the agent holds for all callers together: messages that arrive, wait, run, or are answers not yet read. One connection may use as much as is still free; more is refused with RESOURCE_EXHAUSTED. The links of workers have a budget of the same size, in which large results wait for one another. ARCHITECTURE.md has the formula for the most memory that an agent can hold.',
      ),
      max_unread_bytes: size(
        '256MiB',
        'Bytes of answers that one connection may leave unread. Answers beyond that are refused with RESOURCE_EXHAUSTED.',
      ),
    }),
  ).meta({ description: 'Limits on messages and their memory.' }),
  pools: map(pool, poolNamePattern, checkPoolName).meta({
    description:
      'The pools by name. A name is a lower-case letter, followed by up to 62 lower-case letters, digits, `_` or `-`.',
  }),
});

export type Document = z.output<typeof schema>;
export type PoolDocument = z.output<typeof pool>;

function checkPoolName(name: string): string | undefined {
  if (new RegExp(poolNamePattern).test(name)) return undefined;
  return `expected a pool name of a lower-case letter and up to 62 of a-z, 0-9, _ and -, got ${show(name)}`;
}

function checkIdentity(uri: string): string | undefined {
  if (new RegExp(identityPattern).test(uri)) return undefined;
  return `expected the URI of a certificate, such as spiffe://corp/ns/ops, got ${show(uri)}`;
}

function checkVariable(name: string): string | undefined {
  if (name.startsWith('PITWARDEN_')) return 'expected another name: the agent itself sets the variables PITWARDEN_…';
  if (new RegExp(variablePattern).test(name)) return undefined;
  // Anything after a `=` would be a value.
  return `expected a variable name of letters, digits and _, got ${show(name.replace(/=.*/s, '=…'))}`;
}
