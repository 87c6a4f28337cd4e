/**
 * Maximum length in bytes of a unix socket's path: sun_path of unix(7) without its final NUL. Node silently truncates
 * longer ones.
 */
export const socketPathMaxBytes = 107;

/** The agent's sockets, relative to the runtime directory: for callers, for workers, and for operators. */
export const socketNames = { api: 'agent.sock', link: 'link/link.sock', control: 'control.sock' } as const;

/**
 * Whether the sockets' paths are too long, as a message; undefined if not. `bytesOf` returns the UTF-8 length of a
 * text.
 */
export function socketPathProblem(runtimeDir: string, bytesOf: (text: string) => number): string | undefined {
  for (const name of Object.values(socketNames)) {
    const path = `${runtimeDir}/${name}`;
    const bytes = bytesOf(path);
    if (bytes <= socketPathMaxBytes) continue;
    const wanted = `expected a folder in which each socket's path has at most ${socketPathMaxBytes} bytes`;
    return `${wanted}, got ${bytes}: ${path}`;
  }
  return undefined;
}
