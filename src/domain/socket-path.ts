/** Bytes that a unix socket's path may have: sun_path of unix(7) without its final NUL. Node cuts longer ones off in silence. */
export const socketPathMaxBytes = 107;

/** The API's socket and the workers', below the runtime directory. */
export const socketNames = { api: 'agent.sock', link: 'link/link.sock' } as const;

/** What is wrong with the length of the sockets' paths; undefined: nothing. `bytesOf` counts a text's bytes in UTF-8. */
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
