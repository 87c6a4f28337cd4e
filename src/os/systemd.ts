import { readFileSync, readlinkSync } from 'node:fs';
import { runProcess } from './process/child-process.ts';

/** A listening socket that belongs to the service manager and was passed to this process. */
export interface PassedSocket {
  readonly fd: number;
  /** FileDescriptorName= of its unit. */
  readonly name: string;
  /** The path of the unix socket; empty if it has none, or if it is another kind of socket. */
  readonly path: string;
}

/** The service manager that started this process. Without one, all members do nothing. */
export interface ServiceManager {
  /** The manager kills this process unless it receives WATCHDOG=1 at least this often; 0: no watchdog. */
  readonly watchdogMs: number;
  readonly sockets: readonly PassedSocket[];
  /**
   * Sends a state such as `READY=1` by sd_notify(3), after all earlier ones. Settles when the manager has received it
   * or never will; at once without a manager.
   */
  notify(...lines: readonly string[]): Promise<void>;
}

type Variables = Record<string, string | undefined>;

/** sd_listen_fds(3): the first descriptor that is passed. */
const firstFd = 3;
/** systemd-notify itself waits up to 5 s until the manager has processed the message. */
const notifyTimeoutMs = 10_000;

/**
 * Reads the variables of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3), and removes them, because they are
 * meant for this process and not for its children. `failed` is called for the first notification that could not be
 * sent.
 */
export function openServiceManager(variables: Variables, failed: (message: string) => void): ServiceManager {
  const take = (name: string): string => {
    const value = variables[name] ?? '';
    delete variables[name];
    return value;
  };
  const isMeant = (pid: string): boolean => pid === String(process.pid);
  const watchdogPid = take('WATCHDOG_PID');
  // A value that is not a number means no watchdog.
  const watchdogMs = (Number(take('WATCHDOG_USEC')) || 0) / 1000;
  const [listenPid, count, names] = [take('LISTEN_PID'), Number(take('LISTEN_FDS')), take('LISTEN_FDNAMES')];
  return {
    watchdogMs: watchdogPid === '' || isMeant(watchdogPid) ? watchdogMs : 0,
    sockets: isMeant(listenPid) ? passedSockets(count, names.split(':')) : [],
    notify: createNotify(take('NOTIFY_SOCKET'), failed),
  };
}

function passedSockets(count: number, names: readonly string[]): PassedSocket[] {
  return Array.from({ length: count }, (_, index) => {
    const fd = firstFd + index;
    return { fd, name: names[index] ?? '', path: pathOf(fd) };
  });
}

/** The path that a unix socket is bound to, by its inode in /proc/net/unix: proc_pid_net(5). */
function pathOf(fd: number): string {
  try {
    const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1];
    // Columns: Num RefCount Protocol Flags Type St Inode Path
    const table = readFileSync('/proc/self/net/unix', 'utf8');
    return new RegExp(`^(?:\\S+\\s+){6}${inode} (/.*)$`, 'm').exec(table)?.[1] ?? '';
  } catch {
    return '';
  }
}

/**
 * Node has no unix datagram sockets, so systemd-notify sends the message. It must wait until the manager has processed
 * it (no --no-block): the manager identifies the sender by its cgroup, which it can no longer look up once the sender
 * has exited.
 */
function createNotify(socket: string, failed: (message: string) => void): ServiceManager['notify'] {
  if (socket === '') return async () => undefined;
  let lastSent = Promise.resolve();
  let hasFailed = false;
  /**
   * A status that has not been sent yet. A newer one replaces it, so that statuses do not pile up for a slow manager.
   */
  let status: string | null = null;
  const send = async (lines: readonly string[]): Promise<void> => {
    const options = { env: { NOTIFY_SOCKET: socket }, timeoutMs: notifyTimeoutMs };
    const { ok, why } = await runProcess('systemd-notify', lines, options);
    if (ok || hasFailed) return;
    hasFailed = true;
    failed(`systemd-notify: ${why}`);
  };
  const sendNext = (lines: () => readonly string[]): Promise<void> => {
    lastSent = lastSent.then(() => send(lines()));
    return lastSent;
  };
  return (...lines) => {
    const [line = ''] = lines;
    if (lines.length > 1 || !line.startsWith('STATUS=')) return sendNext(() => lines);
    const waits = status !== null;
    status = line;
    if (waits) return lastSent;
    return sendNext(() => {
      const newest = status ?? line;
      status = null;
      return [newest];
    });
  };
}
