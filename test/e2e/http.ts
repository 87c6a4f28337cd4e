/**
 * A GET over a connection of its own. The agent closes a kept connection after 5 s of silence, and a test process that was busy meanwhile
 * would send its next request into it.
 */
export function get(address: string, path: string): Promise<Response> {
  return fetch(`http://${address}${path}`, { headers: { connection: 'close' } });
}

export async function scrape(address: string): Promise<string> {
  return (await get(address, '/metrics')).text();
}
