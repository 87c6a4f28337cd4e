import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TestAgent } from './agent.ts';
import { examples, python, root, runProcess, startAgent, until, untilReady } from './agent.ts';
import { get, scrape } from './http.ts';

let agent: TestAgent;

beforeAll(async () => {
  agent = await startAgent(`
text: { app: text:app, python: ${python}, cwd: ${examples}, size: 2 }
faults: { app: faults:app, python: ${python}, cwd: ${examples} }
`);
  await untilReady(agent, 'text', 2);
  await untilReady(agent, 'faults', 1);
});

afterAll(() => agent.stop());

test('a client that grpcio-tools alone made drives every call of Execution and Control', async () => {
  const script = join(root, 'test/e2e/independent_client.py');
  const { code, stdout, stderr } = await runProcess(python, [script, join(root, 'proto'), agent.socket]);
  expect(stderr).toBe('');
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toHaveLength(26);
});

test('health and reflection answer as gRPC tools expect', async () => {
  const script = `
import sys, grpc
from google.protobuf import descriptor_pool
channel = grpc.insecure_channel("unix:" + sys.argv[1])
check = channel.unary_unary("/grpc.health.v1.Health/Check")
assert check(b"") == b"\\x08\\x01", "SERVING"
assert check(b"\\x0a\\x14pitwarden.v1.Control") == b"\\x08\\x01"
listed = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(iter([b"\\x3a\\x00"]))
(services,) = list(listed)
assert b"pitwarden.v1.Execution" in services and b"pitwarden.v1.Control" in services, services
assert b"grpc.health.v1.Health" in services
assert b"WorkerLink" not in services
channel.close()
`;
  const { code, stderr } = await runProcess(python, ['-c', script, agent.socket]);
  expect(stderr).toBe('');
  expect(code).toBe(0);
});

test('/metrics is what Prometheus reads, with every series that docs/metrics.md names', async () => {
  await agent.cli('call', 'text', 'count_words', '--args', '["a"]');
  await until(async () => (await metrics()).includes('pitwarden_ping_round_trip_seconds_count{pool="text"}'), 'a pong');
  const script = `
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
families = list(parse(sys.stdin.read()))
assert all(family.documentation for family in families)
print(json.dumps({family.name: sorted({k for s in family.samples for k in s.labels}) for family in families}))
`;
  const { code, stdout, stderr } = await runProcess(python, ['-c', script], await metrics());
  expect(stderr).toBe('');
  expect(code).toBe(0);
  const families = JSON.parse(stdout) as Record<string, string[]>;
  expect(families).toMatchObject({
    pitwarden_workers: ['pool', 'state'],
    pitwarden_worker_starts: ['pool'],
    pitwarden_requests: ['outcome', 'pool'],
    pitwarden_request_seconds: ['le', 'pool'],
    pitwarden_queue_seconds: ['le', 'pool'],
    pitwarden_queue_depth: ['pool'],
    pitwarden_in_flight: ['pool'],
    pitwarden_memory_bytes: ['pool'],
    pitwarden_ping_round_trip_seconds: ['le', 'pool'],
    pitwarden_agent_nodejs_eventloop_lag_seconds: [],
  });
});

test('/healthz and /readyz say how it is; other paths say what there is', async () => {
  expect(await answerOf('/healthz')).toEqual([200, 'ok\n']);
  expect(await answerOf('/readyz')).toEqual([200, 'ready\n']);
  expect((await answerOf('/nothing'))[0]).toBe(404);
  await agent.cli('drain', '--node');
  expect(await answerOf('/readyz')).toEqual([503, 'node is draining\n']);
  await agent.cli('resume');
  expect(await answerOf('/readyz')).toEqual([200, 'ready\n']);
});

async function metrics(): Promise<string> {
  return scrape(agent.http);
}

async function answerOf(path: string): Promise<[number, string]> {
  const response = await get(agent.http, path);
  return [response.status, await response.text()];
}
