import type { z } from 'zod';
import { addressPattern, parseHttp, parseListen } from './address.ts';
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
  pattern,
  quantity,
  section,
  sectionBody,
  share,
  size,
  sizeOrOff,
  taking,
  whole,
  wholeOrOff,
  words,
  yesOrNo,
} from './keys.ts';
import { show } from './units.ts';

/**
 * Every key of the configuration: its default, its unit and one sentence. The loader, the editors' JSON schema and
 * docs/configuration.md are all made from this file.
 *
 * A section's checks run even when some of its keys are wrong, so that one run reports everything.
 */

const poolNamePattern = '^[a-z][a-z0-9_-]{0,62}$';
const appPattern = '^[A-Za-z_]\\w*(\\.[A-Za-z_]\\w*)*:[A-Za-z_]\\w*(\\.[A-Za-z_]\\w*)*$';
const nodeIdPattern = '^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$';
const variablePattern = '^[A-Za-z_][A-Za-z0-9_]*$';

const { atOnce, replacing, nextWorker, nextStart } = effects;

const start = section({
  ...taking(replacing, {
    mode: choice(['exec'])
      .prefault('exec')
      .meta({ description: 'How a worker is made: `exec` runs a fresh interpreter.' }),
  }),
  ...taking(nextWorker, {
    timeout: duration('60s', 'How long a worker may take from its spawn until it is attached and ready.', {
      minMs: 500,
    }),
  }),
  ...taking(atOnce, {
    parallel: whole(1, 1000, 4, 'workers', 'How many workers of the pool may be starting at once.'),
  }),
  ...taking(nextWorker, {
    warm_up: words().optional().meta({
      description:
        'Command that a new worker runs once before it is ready, within `timeout`; if it fails the start has failed.',
      unit: 'command',
      fallback: 'none',
    }),
    warm_up_args: quantity(parseArguments, { type: ['object', 'array'] })
      .prefault({})
      .meta({ description: 'Its arguments: a map by keyword, a list by position.', unit: 'map or list' }),
  }),
});

const heartbeat = section(
  taking(atOnce, {
    interval: duration('2s', 'How often the agent pings each worker.', { minMs: 100 }),
    timeout: duration('10s', 'How long a ping may stay unanswered before it counts as missed.', { minMs: 100 }),
    max_missed: whole(1, 1000, 3, 'pings', 'How many pings in a row may be missed before the worker counts as hung.'),
    busy_limit: duration('5m', 'How long a worker may miss pings while it burns CPU or still brings results.', {
      minMs: 100,
    }),
  }),
  [
    { keys: ['timeout', 'interval'], needs: 'timeout to be no shorter than interval', holds: (a, b) => a >= b },
    { keys: ['busy_limit', 'timeout'], needs: 'busy_limit to be no shorter than timeout', holds: (a, b) => a >= b },
  ],
);

const memory = section(
  taking(atOnce, {
    soft: sizeOrOff('off', 'Memory of the whole process tree past which the worker is recycled with a drain.'),
    hard: sizeOrOff('off', 'Memory of the whole process tree past which the worker is killed.'),
    samples: whole(1, 30, 2, 'samples', 'How many of the last `of` samples, one a second, must be over `soft`.'),
    of: whole(1, 30, 3, 'samples', 'Of how many samples; the others may be peaks that were freed again.'),
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
    ...taking(nextWorker, {
      max_age: durationOrOff('off', 'Age at which a worker is replaced.', { minMs: 1_000 }),
      max_requests: wholeOrOff(
        'off',
        'requests',
        'Number of requests after which a worker is replaced, failed ones too.',
      ),
    }),
    ...taking(atOnce, {
      max_idle: durationOrOff(
        'off',
        'How long a worker that has served may be without requests before it is replaced, to give back what it holds.',
        { minMs: 1_000 },
      ),
    }),
    memory: memory.meta({ description: 'Limits on the memory of a worker and all its descendants.' }),
    ...taking(nextWorker, {
      jitter: share(
        0.9,
        0.1,
        "Share of a limit by which the workers' own limits are spread below it, so that equals part.",
      ),
    }),
    ...taking(atOnce, {
      max_surge: whole(
        0,
        1000,
        1,
        'workers',
        'How many workers above `size` may exist while some are replaced. With 0 each worker has its `{slot}` (a GPU, a port) to itself: the next one starts there when nothing is left of the last one and of what it has started. Only processes that outlive SIGKILL by 10 s are not waited for; they are logged.',
      ),
      max_unavailable: whole(
        0,
        1000,
        0,
        'workers',
        'How many workers below `size` may be missing while some are replaced.',
      ),
      min_lifetime: durationOrOff('1s', 'How long a worker serves before any planned recycle may touch it.'),
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
  taking(atOnce, {
    min: duration('500ms', 'Wait before the first restart after a crash; each further one doubles it.', { minMs: 10 }),
    max: duration('30s', 'Longest wait before a restart.', { minMs: 10 }),
  }),
  [{ keys: ['max', 'min'], needs: 'max to be no shorter than min', holds: (max, min) => max >= min }],
);

const restart = section({
  backoff: backoff.meta({ description: 'Waits between the restarts of one crashing slot.' }),
  ...taking(atOnce, {
    reset_after: duration('60s', 'How long a worker must stay up for its slot to be forgiven its crashes.', {
      minMs: 100,
    }),
    quarantine_after: whole(
      1,
      1000,
      3,
      'failed starts',
      'Failed starts in a row with a changed config after which the pool goes back to the last one that worked.',
    ),
  }),
});

const drain = section(
  taking(atOnce, {
    timeout: duration(
      '30s',
      'How long the running requests of a draining worker may take to finish; a drain that has begun keeps the time that it began with.',
      { minMs: 0, maxMs: linkDurationMaxMs },
    ),
    kill_after: duration('10s', 'How long a worker that was asked to stop may take before it is killed.', {
      minMs: 0,
      maxMs: linkDurationMaxMs,
    }),
  }),
);

const queue = section(
  taking(atOnce, {
    max_requests: whole(1, 1_000_000, 1000, 'requests', 'How many requests may wait for a free worker.'),
    max_bytes: size('64MiB', 'How many bytes of payload the waiting requests may hold together.'),
  }),
);

const keep = section(
  taking(atOnce, {
    for: duration(
      '60s',
      'How long a request whose caller lost its connection goes on, and how long its answer is kept for a caller that repeats its `request_id`.',
      { minMs: 100, maxMs: linkDurationMaxMs },
    ),
    max_results: whole(0, 100_000, 1000, 'results', 'How many such answers one worker keeps; 0 keeps none.'),
    max_bytes: size('16MiB', 'How many bytes of payload these may hold together.'),
  }),
);

const request = section({
  ...taking(atOnce, {
    timeout: duration('60s', 'Deadline of a request whose caller gave none.', { minMs: 10 }),
    max_attempts: whole(1, 100, 3, 'attempts', 'How often an idempotent request may be sent, its first time included.'),
    kill_after: durationOrOff(
      '30s',
      'How long a worker may go on with a request whose deadline passed before the worker is killed and replaced.',
      { minMs: 100 },
    ),
    session_affinity: choice(['off', 'hint', 'strict']).prefault('off').meta({
      description:
        'Whether requests with the same `session_id` go to the same worker: `hint` while it has a place, `strict` waits for it as long as it takes requests.',
    }),
  }),
  keep: keep.meta({ description: 'Answers that could not be delivered, of requests that their callers named.' }),
});

const poison = section(
  taking(atOnce, {
    after: wholeOrOff(3, 'crashes', 'Crashed workers that were running a request after which the same is refused.'),
    for: duration('10m', 'How long it is refused, counted from the last crash.', { minMs: 1_000 }),
  }),
);

const limits = section(
  taking(replacing, {
    pids: wholeOrOff(
      'off',
      'processes and threads',
      "How many processes and threads a worker's tree may have. Without a pids controller the kernel counts them for the agent's user as a whole, and not for root: then the workers of all pools together may have what their limits add up to, and nothing is limited while a pool has no `limits.pids`. The agent warns where it cannot hold.",
    ),
    memory: sizeOrOff(
      'off',
      "Memory that a worker's tree can come to have; past it the kernel ends the worker. Without a memory controller: the data of each of its processes (RLIMIT_DATA), whose allocations fail beyond it.",
    ),
    open_files: wholeOrOff('off', 'files', 'How many files, sockets included, each process of a worker may have open.'),
  }),
);

const pool = sectionBody({
  ...taking(replacing, {
    app: pattern(appPattern, 'module:attribute of a pitwarden.App, such as text:app').meta({
      description: 'Module and attribute of the `pitwarden.App` that the workers serve.',
      unit: '`module:attribute`',
    }),
    python: words().prefault('python3').meta({
      description:
        "Python interpreter; a path with a slash is taken from the config file's folder, a bare name from PATH. A wrapper script must leave its standard input or file descriptor 3 to the interpreter.",
      unit: 'path or name',
    }),
    cwd: words().prefault('.').meta({
      description: "Working directory of the workers, taken from the config file's folder.",
      unit: 'path',
    }),
    env: map(quantity(parseEnvValue, { type: ['string', 'number', 'boolean'] }), variablePattern, checkVariable)
      .prefault({})
      .meta({
        description:
          "Environment variables; `{slot}` (the number of the worker's place, from 0) and `{pool}` are filled in, `{{` and `}}` stand for plain braces. " +
          'With `recycle.max_surge: 0` no two workers have the same `{slot}` at a time; with more, a replacement has the ' +
          '`{slot}` of the worker that it replaces, beside which it runs: up to 1 + `max_surge` workers share it.',
        unit: 'map of texts',
      }),
  }),
  ...taking(atOnce, { size: whole(0, 1000, 1, 'workers', 'How many workers the pool keeps.') }),
  ...taking(replacing, {
    concurrency: whole(1, 1000, 1, 'requests', 'How many requests one worker may have at once.'),
  }),
  start: start.meta({ description: 'How workers come up.' }),
  heartbeat: heartbeat.meta({ description: 'How a hung worker is told from a busy one.' }),
  recycle: recycle.meta({ description: 'When and how workers are replaced as planned.' }),
  restart: restart.meta({ description: 'What happens after a crash.' }),
  drain: drain.meta({ description: 'How a worker goes.' }),
  limits: limits.meta({
    description:
      'What the system denies a worker beyond; by its cgroup where there is one with controllers, else by resource limits.',
  }),
  ...taking(atOnce, {
    orphan_timeout: duration(
      '60s',
      'How long a worker waits for an agent when its own has gone; then it drains and leaves by itself.',
      // With less it would leave before it has dialled once.
      { minMs: 1_000, maxMs: linkDurationMaxMs },
    ),
  }),
  queue: queue.meta({ description: 'Limits on the requests that wait; beyond them RESOURCE_EXHAUSTED is the answer.' }),
  request: request.meta({ description: 'How requests are treated.' }),
  poison: poison.meta({ description: 'Requests that crash their workers: refused with FAILED_PRECONDITION.' }),
});

export const schema = sectionBody({
  node: section(
    taking(nextStart, {
      id: pattern(nodeIdPattern, 'a name of letters, digits, dots, _ and -')
        .optional()
        .meta({ description: 'Name of this host in views and metrics.', unit: 'name', fallback: 'the host name' }),
    }),
  ).meta({ description: 'Who this agent is.' }),
  ...taking(nextStart, {
    runtime_dir: words().optional().meta({
      description: 'Folder of the sockets, `agent.sock` among them.',
      unit: 'path',
      fallback:
        '`/run/pitwarden` as root, else `$XDG_RUNTIME_DIR/pitwarden`, else `pitwarden-UID` in the temporary folder',
    }),
    socket_group: quantity(parseGroup, { anyOf: [{ type: 'string' }, { type: 'integer', minimum: 0 }] })
      .optional()
      .meta({
        description:
          "Group whose members may call the agent: `agent.sock` is then open to it (mode 0660), and the runtime directory may be entered by it. The agent's user has to be in it. A socket of systemd keeps the group of its unit (`SocketGroup=`).",
        unit: 'name or number',
        fallback: "none: only the agent's own user and root may call (mode 0600)",
      }),
    state_dir: words().optional().meta({
      description: 'Folder of what must survive a restart of the agent.',
      unit: 'path',
      fallback: '`/var/lib/pitwarden` as root, else `$XDG_STATE_HOME/pitwarden`, else `~/.local/state/pitwarden`',
    }),
    http: quantity(parseHttp, { type: 'string', pattern: `^off$|${addressPattern}` })
      .prefault('127.0.0.1:9464')
      .meta({
        description: 'Address of /metrics, /healthz and /readyz; port 0 takes a free one.',
        unit: '`HOST:PORT` or `off`',
      }),
    http_allow_remote: yesOrNo(
      false,
      'Whether `http` may be an address beyond loopback. It has no authentication: whoever reaches it reads names and counts.',
    ),
  }),
  ...taking(atOnce, {
    memory_floor: sizeOrOff(
      '256MiB',
      "The host's available memory (MemAvailable) below which no worker is started beside the one it replaces, and the one that has grown most, and still grows, is replaced.",
    ),
  }),
  ...taking(nextStart, {
    listen: quantity(parseListen, { type: 'string', pattern: `^off$|${addressPattern}` })
      .prefault('off')
      .meta({
        description:
          'Loopback address for gRPC over TCP, beside the unix socket; port 0 takes a free one. It has no authentication: every user and process of this host can run commands there and stop workers, so the agent warns of it at its start and in `status`.',
        unit: '`HOST:PORT` or `off`',
      }),
  }),
  log: section(
    taking(nextStart, {
      level: choice(['trace', 'debug', 'info', 'warn', 'error'])
        .prefault('info')
        .meta({ description: 'Least severe log lines that are written.' }),
      format: choice(['pretty', 'json']).optional().meta({
        description: 'Log lines for people or for programs.',
        fallback: '`pretty` on a terminal, else `json`',
      }),
    }),
  ).meta({ description: 'What the agent writes about itself and its workers.' }),
  message: section(
    taking(nextStart, {
      max_bytes: size('64MiB', 'Largest request or response in bytes.', 2 ** 30),
      budget: size(
        '512MiB',
        'Bytes of messages that callers together may make the agent hold: arriving, waiting, running, answered and unread. A connection may hold as much as is still free; more is refused with RESOURCE_EXHAUSTED. Workers have a budget of the same size, in which large results wait for one another.',
      ),
      max_unread_bytes: size(
        '256MiB',
        'Bytes of answers that one connection may leave unread; more of them are refused with RESOURCE_EXHAUSTED.',
      ),
    }),
  ).meta({ description: 'Limits on single messages.' }),
  pools: map(pool, poolNamePattern, checkPoolName).meta({
    description: 'The pools by name; a name is a lower-case letter and up to 62 letters, digits, `_` or `-`.',
  }),
});

export type Document = z.output<typeof schema>;
export type PoolDocument = z.output<typeof pool>;

function checkPoolName(name: string): string | undefined {
  if (new RegExp(poolNamePattern).test(name)) return undefined;
  return `expected a pool name of a lower-case letter and up to 62 of a-z, 0-9, _ and -, got ${show(name)}`;
}

function checkVariable(name: string): string | undefined {
  if (name.startsWith('PITWARDEN_')) return 'expected another name: the agent itself sets the variables PITWARDEN_…';
  if (new RegExp(variablePattern).test(name)) return undefined;
  // What follows a = would be a value.
  return `expected a variable name of letters, digits and _, got ${show(name.replace(/=.*/s, '=…'))}`;
}
