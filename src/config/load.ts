import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import type { z } from 'zod';
import type { NodeConfig, PoolConfig } from '../domain/config.ts';
import { socketPathProblem } from '../domain/socket-path.ts';
import type { Address } from './address.ts';
import { isLoopback, parseHttp, remoteHttpProblem, remoteListenProblem } from './address.ts';
import { type SchemaNode, unwrap } from './all-keys.ts';
import type { SourceDocument } from './document.ts';
import { readDocument } from './document.ts';
import { type NextStart, nextStartOf } from './next-start.ts';
import type { Problem } from './problem.ts';
import { readTextFile } from './read-file.ts';
import type { Document, PoolDocument } from './schema.ts';
import { schema } from './schema.ts';
import type { SocketGroups } from './socket-groups.ts';
import { socketGroupsOf } from './socket-groups.ts';
import { nearest } from './suggest.ts';
import type { Parsed } from './units.ts';
import { shorten, show } from './units.ts';

/** The complete configuration, in plain units and with absolute paths. */
export interface Config {
  readonly node: NodeConfig;
  readonly path: string;
  readonly runtimeDir: string;
  readonly stateDir: string;
  /** The group that may use the API's socket in addition to the agent's user; null: none. */
  readonly socketGroup: number | null;
  /** The group that may use `control.sock`; null: none. */
  readonly controlGroup: number | null;
  /** Null: off. */
  readonly http: Address | null;
  readonly listen: Address | null;
  /** Without TLS: whether Control is served at `listen` too, where callers are not authenticated. */
  readonly listenInsecureControl: boolean;
  /** Null: `listen` has no TLS. */
  readonly tls: TlsConfig | null;
  readonly log: { readonly level: string; readonly format: 'pretty' | 'json' | 'auto' };
  readonly messageMaxBytes: number;
  /** Bytes of answers that one connection may leave unread. */
  readonly unreadMaxBytes: number;
  /** Bytes of messages that all connections together may make the agent hold. */
  readonly messageBudget: number;
  /** The values that a reload cannot change. */
  readonly nextStart: NextStart;
}

/** Flags of the command line, which override the file. */
export interface Overrides {
  readonly runtimeDir?: string | undefined;
  readonly stateDir?: string | undefined;
  readonly http?: string | undefined;
  readonly listen?: string | undefined;
}

/** The facts about the host and its user on which defaults depend. */
export interface LoadEnvironment {
  readonly root: boolean;
  readonly uid: number;
  readonly hostname: string;
  readonly tmpdir: string;
  readonly home: string;
  readonly cwd: string;
  readonly variables: Readonly<Record<string, string | undefined>>;
}

/** The section `tls`. Paths are absolute. */
export interface TlsConfig {
  readonly cert: string;
  readonly key: string;
  readonly clientCa: string;
  /** Null: no revocation list. */
  readonly crl: string | null;
  readonly domain: string;
  /** Identities of certificates that name no role: URI to path, such as `role/viewer`. */
  readonly mapped: ReadonlyMap<string, string>;
  readonly connectionMaxAgeMs: number;
}

export type Loaded =
  | { readonly ok: true; readonly config: Config }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/** How many problems of one file are reported. Locating each takes time, and more are of no use. */
const problemsMax = 100;

/** Reads a configuration and reports all its problems at once. Never rejects, whatever the file contains. */
export async function loadConfig(file: string, env: LoadEnvironment, overrides: Overrides = {}): Promise<Loaded> {
  const path = resolve(env.cwd, file);
  const read = await readTextFile(path);
  if (!read.ok) return refused([problemOfFile(file, read.message)]);
  try {
    return await parseConfig(read.value, { file, path, env, overrides });
  } catch (error) {
    return refused([problemOfFile(file, error instanceof RangeError ? 'nested too deeply' : 'could not be parsed')]);
  }
}

interface Source {
  /** The path as the user wrote it, and as an absolute path. */
  readonly file: string;
  readonly path: string;
  readonly env: LoadEnvironment;
  readonly overrides: Overrides;
}

async function parseConfig(text: string, { file, path, env, overrides }: Source): Promise<Loaded> {
  const source = readDocument(file, text);
  const problems = [...source.problems];
  if (source.data === undefined && problems.length > 0) return refused(problems);
  const parsed = schema.safeParse(source.data ?? {});
  if (!parsed.success) problems.push(...problemsOf(parsed.error.issues, file, source));
  const flags = readFlags(overrides, env);
  problems.push(...flags.problems);
  if (!parsed.success) return refused(problems);
  const groups = await socketGroupsOf(parsed.data);
  problems.push(...groups.problems.map(({ key, message }) => problemAt(file, source, [key], 'value', message)));
  const config = toConfig(parsed.data, path, env, flags, groups);
  problems.push(...runtimeDirProblems(config, flags, { file, source }));
  problems.push(...httpProblems(parsed.data, config, flags, { file, source }));
  problems.push(...listenProblems(parsed.data, config, flags, { file, source }));
  problems.push(...(await checkMachine(config, file, source, env)));
  return problems.length > 0 ? refused(problems) : { ok: true, config };
}

function problemOfFile(file: string, message: string): Problem {
  return { file, line: 0, column: 0, path: '', message };
}

/** Sorted by location. */
function refused(problems: readonly Problem[]): Loaded {
  const sorted = [...problems].sort((a, b) => a.line - b.line || a.column - b.column);
  const more = sorted.length - problemsMax;
  const [first] = sorted;
  if (more <= 0 || first === undefined) return { ok: false, problems: sorted };
  const last = problemOfFile(first.file, `and ${more} more problems`);
  return { ok: false, problems: [...sorted.slice(0, problemsMax), last] };
}

function runtimeDirProblems(
  { runtimeDir }: Config,
  flags: Flags,
  { file, source }: { readonly file: string; readonly source: SourceDocument },
): Problem[] {
  const tooLong = socketPathProblem(runtimeDir, Buffer.byteLength);
  if (tooLong === undefined) return [];
  if (flags.runtimeDir !== undefined) return [problemOfFile('--runtime-dir', tooLong)];
  const message = `${tooLong}; name a shorter one with --runtime-dir DIR (config: runtime_dir)`;
  return [problemAt(file, source, ['runtime_dir'], 'value', message)];
}

/** The HTTP server has no authentication, so serving beyond loopback must be enabled explicitly. */
function httpProblems(
  document: Document,
  { http }: Config,
  flags: Flags,
  { file, source }: { readonly file: string; readonly source: SourceDocument },
): Problem[] {
  const message = http === null || document.http_allow_remote ? undefined : remoteHttpProblem(http);
  if (message === undefined) return [];
  return [
    flags.http === undefined ? problemAt(file, source, ['http'], 'value', message) : problemOfFile('--http', message),
  ];
}

/** Beyond loopback callers must prove who they are. */
function listenProblems(
  { tls }: Document,
  { listen }: Config,
  flags: Flags,
  { file, source }: { readonly file: string; readonly source: SourceDocument },
): Problem[] {
  const set = (['cert', 'key', 'client_ca'] as const).filter((key) => tls[key] !== undefined);
  const needed = set.length > 0 || tls.crl !== undefined;
  if (needed && set.length < 3) {
    const got = [...set, ...(tls.crl === undefined ? [] : ['crl'])].join(', ');
    return [problemAt(file, source, ['tls'], 'key', `expected cert, key and client_ca, got only ${got}`)];
  }
  if (listen === null || set.length > 0 || isLoopback(listen.host)) return [];
  const message = remoteListenProblem(listen);
  return [
    flags.listen === undefined
      ? problemAt(file, source, ['listen'], 'value', message)
      : problemOfFile('--listen', message),
  ];
}

/** The folder of the sockets if nothing else is configured. */
export function defaultRuntimeDir(env: Pick<LoadEnvironment, 'root' | 'uid' | 'tmpdir' | 'variables'>): string {
  if (env.root) return '/run/pitwarden';
  const runtime = env.variables['XDG_RUNTIME_DIR'];
  return runtime === undefined || runtime === ''
    ? join(env.tmpdir, `pitwarden-${env.uid}`)
    : join(runtime, 'pitwarden');
}

function defaultStateDir(env: LoadEnvironment): string {
  if (env.root) return '/var/lib/pitwarden';
  const state = env.variables['XDG_STATE_HOME'];
  return join(state === undefined || state === '' ? join(env.home, '.local/state') : state, 'pitwarden');
}

function problemsOf(issues: readonly z.core.$ZodIssue[], file: string, source: SourceDocument): Problem[] {
  const problems: Problem[] = [];
  for (const issue of issues) {
    if (problems.length > problemsMax) break;
    problems.push(...toProblems(issue, file, source));
  }
  return problems;
}

function toProblems(issue: z.core.$ZodIssue, file: string, source: SourceDocument): Problem[] {
  if (issue.code !== 'unrecognized_keys') {
    const atKey = issue.code === 'custom' && issue.params?.['atKey'] === true;
    return [problemAt(file, source, issue.path, atKey ? 'key' : 'value', issue.message)];
  }
  const known = keysAt(issue.path);
  return issue.keys.slice(0, problemsMax + 1).map((key) => {
    const near = nearest(key, known);
    const hint = near === undefined ? `; known here: ${known.join(', ')}` : `; did you mean ${near}?`;
    return problemAt(file, source, [...issue.path, key], 'key', `unknown key${hint}`);
  });
}

function problemAt(
  file: string,
  source: SourceDocument,
  path: readonly PropertyKey[],
  at: 'key' | 'value',
  message: string,
): Problem {
  return { file, ...source.locate(path, at), path: showPath(path), message };
}

/**
 * Keys are user-defined and may have any length. An invalid variable name may be `NAME=SECRET`, so the value is left
 * out.
 */
function showPath(path: readonly PropertyKey[]): string {
  return path.map((key) => shorten(String(key).replace(/=.*/s, '=…'))).join('.');
}

/** The keys that the schema knows below a path. */
function keysAt(path: readonly PropertyKey[]): string[] {
  let at: unknown = schema;
  for (const key of path) at = childOf(unwrap(at), key);
  const shape = (unwrap(at) as { shape?: object } | undefined)?.shape;
  return shape === undefined ? [] : Object.keys(shape);
}

function childOf(node: SchemaNode | undefined, key: PropertyKey): unknown {
  return node?.shape !== undefined && Object.hasOwn(node.shape, key) ? node.shape[String(key)] : node?.def?.valueType;
}

interface Flags {
  readonly runtimeDir?: string;
  readonly stateDir?: string;
  readonly http?: Address | null;
  readonly listen?: Address | null;
  readonly problems: readonly Problem[];
}

function readFlags(overrides: Overrides, env: LoadEnvironment): Flags {
  const problems: Problem[] = [];
  const take = <T>(flag: string, parsed: Parsed<T>): T | undefined => {
    if (parsed.ok) return parsed.value;
    problems.push(problemOfFile(flag, parsed.message));
    return undefined;
  };
  const { runtimeDir, stateDir, http, listen } = overrides;
  const httpAddress = http === undefined ? undefined : take('--http', parseHttp(http));
  const listenAddress = listen === undefined ? undefined : take('--listen', parseHttp(listen));
  return {
    ...(runtimeDir === undefined ? {} : { runtimeDir: resolve(env.cwd, runtimeDir) }),
    ...(stateDir === undefined ? {} : { stateDir: resolve(env.cwd, stateDir) }),
    ...(httpAddress === undefined ? {} : { http: httpAddress }),
    ...(listenAddress === undefined ? {} : { listen: listenAddress }),
    problems,
  };
}

function toConfig(
  document: Document,
  path: string,
  env: LoadEnvironment,
  flags: Flags,
  { socketGroup, controlGroup }: SocketGroups,
): Config {
  const folder = dirname(path);
  const folderOf = (configured: string | undefined, fallback: string): string =>
    configured === undefined ? fallback : resolve(folder, configured);
  const pools = Object.entries(document.pools).map(([name, pool]) => [name, toPool(name, pool, folder)] as const);
  return {
    node: {
      nodeId: document.node.id ?? env.hostname,
      memoryFloorBytes: document.memory_floor,
      pools: new Map(pools),
    },
    path,
    runtimeDir: flags.runtimeDir ?? folderOf(document.runtime_dir, defaultRuntimeDir(env)),
    stateDir: flags.stateDir ?? folderOf(document.state_dir, defaultStateDir(env)),
    socketGroup,
    controlGroup,
    http: flags.http === undefined ? document.http : flags.http,
    listen: flags.listen === undefined ? document.listen : flags.listen,
    listenInsecureControl: document.listen_insecure_control,
    tls: toTls(document.tls, (path) => resolve(folder, path)),
    log: { level: document.log.level, format: document.log.format ?? 'auto' },
    messageMaxBytes: document.message.max_bytes,
    unreadMaxBytes: document.message.max_unread_bytes,
    messageBudget: document.message.budget,
    nextStart: nextStartOf(document, overriddenBy(flags)),
  };
}

/** Null: it is not configured, or not whole (see `listenProblems`). */
function toTls(tls: Document['tls'], absolute: (path: string) => string): TlsConfig | null {
  const { cert, key, client_ca: clientCa, crl, domain, identities, max_connection_age: connectionMaxAgeMs } = tls;
  if (cert === undefined || key === undefined || clientCa === undefined) return null;
  return {
    ...{ cert: absolute(cert), key: absolute(key), clientCa: absolute(clientCa) },
    crl: crl === undefined ? null : absolute(crl),
    ...{ domain, mapped: new Map(Object.entries(identities)), connectionMaxAgeMs },
  };
}

function overriddenBy(flags: Flags): ReadonlySet<string> {
  const names = { runtime_dir: flags.runtimeDir, state_dir: flags.stateDir, http: flags.http, listen: flags.listen };
  return new Set(Object.entries(names).flatMap(([name, value]) => (value === undefined ? [] : [name])));
}

function toPool(name: string, pool: PoolDocument, folder: string): PoolConfig {
  const { start, heartbeat, recycle, restart, drain, limits, queue, request, poison, telemetry } = pool;
  return {
    name,
    app: pool.app,
    python: pool.python.includes('/') ? resolve(folder, pool.python) : pool.python,
    cwd: resolve(folder, pool.cwd),
    env: pool.env,
    size: pool.size,
    concurrency: pool.concurrency,
    start: {
      mode: start.mode,
      timeoutMs: start.timeout,
      parallel: start.parallel,
      warmUp: start.warm_up === undefined ? null : { command: start.warm_up, payload: start.warm_up_args },
    },
    heartbeat: {
      intervalMs: heartbeat.interval,
      timeoutMs: heartbeat.timeout,
      maxMissed: heartbeat.max_missed,
      busyLimitMs: heartbeat.busy_limit,
    },
    recycle: {
      maxAgeMs: recycle.max_age,
      maxRequests: recycle.max_requests,
      maxIdleMs: recycle.max_idle,
      memory: {
        softBytes: recycle.memory.soft,
        hardBytes: recycle.memory.hard,
        samples: recycle.memory.samples,
        of: recycle.memory.of,
      },
      jitter: recycle.jitter,
      maxSurge: recycle.max_surge,
      maxUnavailable: recycle.max_unavailable,
      minLifetimeMs: recycle.min_lifetime,
    },
    restart: {
      backoffMinMs: restart.backoff.min,
      backoffMaxMs: restart.backoff.max,
      resetAfterMs: restart.reset_after,
      quarantineAfter: restart.quarantine_after,
    },
    drain: { timeoutMs: drain.timeout, killAfterMs: drain.kill_after },
    orphanTimeoutMs: pool.orphan_timeout,
    queue: { maxRequests: queue.max_requests, maxBytes: queue.max_bytes },
    request: {
      timeoutMs: request.timeout,
      maxAttempts: request.max_attempts,
      killAfterMs: request.kill_after,
      affinity: request.session_affinity,
      keep: { forMs: request.keep.for, maxResults: request.keep.max_results, maxBytes: request.keep.max_bytes },
    },
    poison: { after: poison.after, forMs: poison.for },
    limits: { pids: limits.pids, memoryBytes: limits.memory, openFiles: limits.open_files },
    telemetry: { maxSeries: telemetry.max_series },
  };
}

/** Checks what the schema cannot: that folders and interpreters exist. */
async function checkMachine(
  config: Config,
  file: string,
  source: SourceDocument,
  env: LoadEnvironment,
): Promise<Problem[]> {
  const problems: Problem[] = [];
  const machine = createMachine(env);
  for (const pool of config.node.pools.values()) {
    if (problems.length > problemsMax) break;
    const at = (key: string, message: string): void => {
      problems.push(problemAt(file, source, ['pools', pool.name, key], 'value', message));
    };
    if (!(await machine.isFolder(pool.cwd)))
      at('cwd', `expected a folder, got ${show(pool.cwd)}, which is not a folder`);
    const missing = await machine.missingPython(pool.python);
    if (missing !== undefined) at('python', missing);
  }
  return problems;
}

interface Machine {
  isFolder(path: string): Promise<boolean>;
  /** Why it is not an interpreter; undefined if it is one. */
  missingPython(python: string): Promise<string | undefined>;
}

/** Checks each path once, one after the other: a hanging disk then blocks one of Node's few threads, not all. */
function createMachine(env: LoadEnvironment): Machine {
  const folders = new Map<string, Promise<boolean>>();
  const pythons = new Map<string, Promise<string | undefined>>();
  return {
    isFolder: (path) => once(folders, path, () => isFolder(path)),
    missingPython: (python) => once(pythons, python, () => missingPython(python, env)),
  };
}

function once<T>(known: Map<string, Promise<T>>, key: string, find: () => Promise<T>): Promise<T> {
  const found = known.get(key) ?? find();
  known.set(key, found);
  return found;
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false;
  }
}

async function missingPython(python: string, env: LoadEnvironment): Promise<string | undefined> {
  if (python.includes('/')) {
    const wanted = `expected a Python interpreter, got ${show(python)}, which is not an executable file`;
    return (await isExecutable(python)) ? undefined : wanted;
  }
  const folders = (env.variables['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  for (const folder of folders) if (await isExecutable(join(folder, basename(python)))) return undefined;
  return `expected a Python interpreter on PATH, found no ${show(python)} in ${folders.join(delimiter) || 'an empty PATH'}`;
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
