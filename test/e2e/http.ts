/**
 * Sends a GET over a new connection. The agent closes a kept one after 5 s of silence, and a busy test process might
 * just then send its next request into it.
 */
export function get(address: string, path: string): Promise<Response> {
  return fetch(`http://${address}${path}`, { headers: { connection: 'close' } });
}

export async function scrape(address: string): Promise<string> {
  return (await get(address, '/metrics')).text();
}
