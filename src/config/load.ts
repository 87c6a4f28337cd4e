import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { basename, delimiter, dirname, join, resolve } from 'node:path';
import type { z } from 'zod';
import type { NodeConfig, PoolConfig } from '../domain/config.ts';
import type { Address } from './address.ts';
import { parseHttp, parseListen } from './address.ts';
import type { SourceDocument } from './document.ts';
import { readDocument } from './document.ts';
import type { Problem } from './problem.ts';
import type { Document, PoolDocument } from './schema.ts';
import { schema } from './schema.ts';
import { nearest } from './suggest.ts';
import type { Parsed } from './units.ts';
import { show } from './units.ts';

/** The whole configuration, in plain units and with every path absolute. */
export interface Config {
  readonly node: NodeConfig;
  readonly path: string;
  readonly runtimeDir: string;
  readonly stateDir: string;
  /** Null: off. */
  readonly http: Address | null;
  readonly listen: Address | null;
  readonly log: { readonly level: string; readonly format: 'pretty' | 'json' | 'auto' };
  readonly messageMaxBytes: number;
  /** Of answers that one connection leaves unread. */
  readonly unreadMaxBytes: number;
}

/** Flags of the command line, which come before the file. */
export interface Overrides {
  readonly runtimeDir?: string | undefined;
  readonly stateDir?: string | undefined;
  readonly http?: string | undefined;
  readonly listen?: string | undefined;
}

/** What defaults depend on. */
export interface LoadEnvironment {
  readonly root: boolean;
  readonly uid: number;
  readonly hostname: string;
  readonly tmpdir: string;
  readonly home: string;
  readonly cwd: string;
  readonly variables: Readonly<Record<string, string | undefined>>;
}

export type Loaded =
  | { readonly ok: true; readonly config: Config }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/** Bytes that a unix socket's path may have: sun_path of unix(7) without its final NUL. */
const socketPathMaxBytes = 107;

/** Reads a configuration; everything that is wrong with it is told at once. */
export function loadConfig(file: string, env: LoadEnvironment, overrides: Overrides = {}): Loaded {
  const path = resolve(env.cwd, file);
  const read = readText(path, file);
  if (!read.ok) return { ok: false, problems: [{ file, line: 0, column: 0, path: '', message: read.message }] };
  const source = readDocument(file, read.value);
  const problems = [...source.problems];
  const parsed = schema.safeParse(source.data ?? {});
  if (source.data === undefined && problems.length > 0) return { ok: false, problems: sorted(problems) };
  if (!parsed.success) problems.push(...parsed.error.issues.flatMap((issue) => toProblems(issue, file, source)));
  const flags = readFlags(overrides, env);
  problems.push(...flags.problems);
  if (!parsed.success) return { ok: false, problems: sorted(problems) };
  const config = toConfig(parsed.data, path, env, flags);
  problems.push(...checkMachine(config, file, source, env));
  return problems.length > 0 ? { ok: false, problems: sorted(problems) } : { ok: true, config };
}

/** Where the sockets are when nobody says otherwise. */
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

function readText(path: string, name: string): Parsed<string> {
  try {
    const bytes = readFileSync(path);
    return { ok: true, value: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    const said: Readonly<Record<string, string>> = {
      ENOENT: 'expected a file, got nothing: it does not exist',
      EISDIR: 'expected a file, got a folder',
      EACCES: 'expected a file that this user may read, got permission denied',
      ERR_ENCODING_INVALID_ENCODED_DATA: 'expected UTF-8 text, got other bytes',
    };
    return { ok: false, message: said[code] ?? `could not read ${name}: ${(error as Error).message}` };
  }
}

function toProblems(issue: z.core.$ZodIssue, file: string, source: SourceDocument): Problem[] {
  if (issue.code !== 'unrecognized_keys') {
    const atKey = issue.code === 'custom' && issue.params?.['atKey'] === true;
    return [problemAt(file, source, issue.path, atKey ? 'key' : 'value', issue.message)];
  }
  const known = keysAt(issue.path);
  return issue.keys.map((key) => {
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
  return { file, ...source.locate(path, at), path: path.map(String).join('.'), message };
}

/** The keys that the schema knows below a path. */
function keysAt(path: readonly PropertyKey[]): string[] {
  let at: unknown = schema;
  for (const key of path) at = childOf(unwrap(at), key);
  const shape = (unwrap(at) as { shape?: object } | undefined)?.shape;
  return shape === undefined ? [] : Object.keys(shape);
}

interface AnySchema {
  readonly shape?: Readonly<Record<PropertyKey, unknown>>;
  readonly def?: { readonly innerType?: unknown; readonly valueType?: unknown };
}

function unwrap(node: unknown): AnySchema | undefined {
  let at = node as AnySchema | undefined;
  while (at?.def?.innerType !== undefined) at = at.def.innerType as AnySchema;
  return at;
}

function childOf(node: AnySchema | undefined, key: PropertyKey): unknown {
  return node?.shape?.[key] ?? node?.def?.valueType;
}

function sorted(problems: readonly Problem[]): Problem[] {
  return [...problems].sort((a, b) => a.line - b.line || a.column - b.column);
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
    problems.push({ file: flag, line: 0, column: 0, path: '', message: parsed.message });
    return undefined;
  };
  const { runtimeDir, stateDir, http, listen } = overrides;
  const httpAddress = http === undefined ? undefined : take('--http', parseHttp(http));
  const listenAddress = listen === undefined ? undefined : take('--listen', parseListen(listen));
  return {
    ...(runtimeDir === undefined ? {} : { runtimeDir: resolve(env.cwd, runtimeDir) }),
    ...(stateDir === undefined ? {} : { stateDir: resolve(env.cwd, stateDir) }),
    ...(httpAddress === undefined ? {} : { http: httpAddress }),
    ...(listenAddress === undefined ? {} : { listen: listenAddress }),
    problems,
  };
}

function toConfig(document: Document, path: string, env: LoadEnvironment, flags: Flags): Config {
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
    http: flags.http === undefined ? document.http : flags.http,
    listen: flags.listen === undefined ? document.listen : flags.listen,
    log: { level: document.log.level, format: document.log.format ?? 'auto' },
    messageMaxBytes: document.message.max_bytes,
    unreadMaxBytes: document.message.max_unread_bytes,
  };
}

function toPool(name: string, pool: PoolDocument, folder: string): PoolConfig {
  const { start, heartbeat, recycle, restart, drain, queue, request, poison } = pool;
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
  };
}

/** What the schema cannot see: folders and interpreters that must be there, and the length of socket paths. */
function checkMachine(config: Config, file: string, source: SourceDocument, env: LoadEnvironment): Problem[] {
  const problems: Problem[] = [];
  const socket = join(config.runtimeDir, 'agent.sock');
  const bytes = Buffer.byteLength(socket);
  if (bytes > socketPathMaxBytes) {
    const message = `expected a folder whose socket path has at most ${socketPathMaxBytes} bytes, got ${bytes}: ${socket}`;
    problems.push(problemAt(file, source, ['runtime_dir'], 'value', message));
  }
  for (const pool of config.node.pools.values()) {
    const at = (key: string, message: string): void => {
      problems.push(problemAt(file, source, ['pools', pool.name, key], 'value', message));
    };
    if (!isFolder(pool.cwd)) at('cwd', `expected a folder, got ${show(pool.cwd)}, which is none`);
    const missing = missingPython(pool.python, env);
    if (missing !== undefined) at('python', missing);
  }
  return problems;
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

function missingPython(python: string, env: LoadEnvironment): string | undefined {
  if (python.includes('/')) {
    return isExecutable(python) ? undefined : `expected a Python interpreter, got ${show(python)}, which is no program`;
  }
  const folders = (env.variables['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  if (folders.some((folder) => isExecutable(join(folder, basename(python))))) return undefined;
  return `expected a Python interpreter on PATH, found no ${show(python)} in ${folders.join(delimiter) || 'an empty PATH'}`;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
