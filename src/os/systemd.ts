import { readFileSync, readlinkSync } from 'node:fs';
import { runProcess } from './process/child-process.ts';

/** A listening socket that the service manager holds and lends to this process. */
export interface LentSocket {
  readonly fd: number;
  /** FileDescriptorName= of its unit. */
  readonly name: string;
  /** Of a unix socket that has one in the file system; empty: something else. */
  readonly path: string;
}

/** The service manager that started this process, as far as there is one. */
export interface ServiceManager {
  /** It kills this process unless it hears WATCHDOG=1 at least this often; 0: it does not watch. */
  readonly watchdogMs: number;
  readonly sockets: readonly LentSocket[];
  /**
   * Says something by sd_notify(3), such as `READY=1`, after what was said before. Settles when the manager has taken it, or
   * never will; without a manager at once.
   */
  notify(...lines: readonly string[]): Promise<void>;
}

type Variables = Record<string, string | undefined>;

/** sd_listen_fds(3): the first descriptor that is passed on. */
const firstFd = 3;
/** systemd-notify waits up to 5 s for the manager to have taken its words. */
const notifyTimeoutMs = 10_000;

/**
 * Reads what sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3) say is in the environment, and takes it out: it is
 * meant for this process and not for what it starts. `failed` is called for the first word that could not be said.
 */
export function openServiceManager(variables: Variables, failed: (message: string) => void): ServiceManager {
  const take = (name: string): string => {
    const value = variables[name] ?? '';
    delete variables[name];
    return value;
  };
  const isMeant = (pid: string): boolean => pid === String(process.pid);
  const watchdogPid = take('WATCHDOG_PID');
  // What is no number asks for no watchdog.
  const watchdogMs = (Number(take('WATCHDOG_USEC')) || 0) / 1000;
  const [listenPid, count, names] = [take('LISTEN_PID'), Number(take('LISTEN_FDS')), take('LISTEN_FDNAMES')];
  return {
    watchdogMs: watchdogPid === '' || isMeant(watchdogPid) ? watchdogMs : 0,
    sockets: isMeant(listenPid) ? lentSockets(count, names.split(':')) : [],
    notify: createNotify(take('NOTIFY_SOCKET'), failed),
  };
}

function lentSockets(count: number, names: readonly string[]): LentSocket[] {
  return Array.from({ length: count }, (_, index) => {
    const fd = firstFd + index;
    return { fd, name: names[index] ?? '', path: pathOf(fd) };
  });
}

/** Where a unix socket is bound, by its inode in /proc/net/unix: proc_pid_net(5). */
function pathOf(fd: number): string {
  try {
    const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1];
    // Num RefCount Protocol Flags Type St Inode Path
    const table = readFileSync('/proc/self/net/unix', 'utf8');
    return new RegExp(`^(?:\\S+\\s+){6}${inode} (/.*)$`, 'm').exec(table)?.[1] ?? '';
  } catch {
    return '';
  }
}

/**
 * Node has no unix datagram sockets, so systemd-notify says it. It stays until the manager has taken its words (no
 * --no-block): the manager knows whose they are by the cgroup of who said them, which is gone with a process that is.
 */
function createNotify(socket: string, failed: (message: string) => void): ServiceManager['notify'] {
  if (socket === '') return async () => undefined;
  let said = Promise.resolve();
  let hasFailed = false;
  /** A status that has not been said yet: a newer one takes its place, so that a slow manager is not behind by many. */
  let status: string | null = null;
  const say = async (lines: readonly string[]): Promise<void> => {
    const options = { env: { NOTIFY_SOCKET: socket }, timeoutMs: notifyTimeoutMs };
    const { ok, why } = await runProcess('systemd-notify', lines, options);
    if (ok || hasFailed) return;
    hasFailed = true;
    failed(`systemd-notify: ${why}`);
  };
  const sayNext = (lines: () => readonly string[]): Promise<void> => {
    said = said.then(() => say(lines()));
    return said;
  };
  return (...lines) => {
    const [line = ''] = lines;
    if (lines.length > 1 || !line.startsWith('STATUS=')) return sayNext(() => lines);
    const waits = status !== null;
    status = line;
    if (waits) return said;
    return sayNext(() => {
      const newest = status ?? line;
      status = null;
      return [newest];
    });
  };
}
