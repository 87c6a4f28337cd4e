import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { needs } from '../needs.ts';
import type { TestAgent } from './agent.ts';
import { examples, python, root, spawnAgent, until, untilReady } from './agent.ts';
import { scrape } from './http.ts';

// Runs the queries of docs/metrics.md in a real Prometheus.

const isThere = spawnSync('prometheus', ['--version']).status === 0;

const page = readFileSync(join(root, 'docs/metrics.md'), 'utf8');

interface Result {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [number, string];
}

let agent: TestAgent;
let prometheus: Prometheus;

describe('a real Prometheus', needs('prometheus', isThere, 'it is not on PATH'), () => {
  beforeAll(async () => {
    agent = await spawnAgent(`
text: { app: text:app, python: ${python}, cwd: ${examples}, size: 2, recycle: { memory: { soft: 1GiB, hard: 2GiB } } }
faults: { app: faults:app, python: ${python}, cwd: ${examples} }
`);
    await untilReady(agent, 'text', 2);
    await untilReady(agent, 'faults', 1);
    prometheus = await startPrometheus(agent.http);
    await until(async () => (await prometheus.query('pitwarden_build_info')).length > 0, 'a first scrape');
  });

  afterAll(async () => {
    await prometheus?.stop();
    await agent?.stop();
  });

  test('sees the first crash of a worker, the first failed request, and a roll', async () => {
    await agent.cli('call', 'text', 'count_words', '--args', '["a"]');
    await agent.cli('call', 'faults', 'exit', '--args', '[3]');
    await untilReady(agent, 'faults', 1);
    expect((await agent.cli('roll', 'text')).code).toBe(0);
    const crashes = 'increase(pitwarden_worker_exits_total{pool="faults",reason="exit_code"}[5m]) > 0.5';
    await until(async () => (await prometheus.query(crashes)).length === 1, 'the crash to be an increase');
    const lost = 'increase(pitwarden_requests_total{pool="faults",outcome="unavailable"}[5m]) > 0.5';
    await until(async () => (await prometheus.query(lost)).length === 1, 'the failure to be an increase');
    const rolled = 'pitwarden_roll_state{pool="text",state="done"} == 1';
    await until(async () => (await prometheus.query(rolled)).length === 1, 'the roll to be done');
  });

  test('answers every query of docs/metrics.md', async () => {
    const queries = [...page.matchAll(/```promql\n([\s\S]*?)```/g)].flatMap(([, block = '']) =>
      block.trim().split('\n'),
    );
    expect(page.match(/^\*\*.*\?\*\*/gm)).toHaveLength(10);
    expect(queries.length).toBeGreaterThanOrEqual(10);
    const answers = new Map<string, Record<string, number>>();
    for (const query of queries) {
      const results = await until(
        async () => {
          const found = await prometheus.query(query);
          return found.length > 0 ? found : undefined;
        },
        `an answer to ${query}`,
        () => prometheus.query(query),
      );
      answers.set(
        query,
        Object.fromEntries(results.map(({ metric, value }) => [metric['pool'] ?? '', Number(value[1])])),
      );
    }
    const answer = (words: string) => [...answers].find(([query]) => query.includes(words))?.[1];
    expect(answer('pitwarden_pool_open')).toEqual({ text: 1, faults: 1 });
    expect(answer('outcome!="ok"')).toMatchObject({ text: 0, faults: 1 });
    expect(answer('increase(pitwarden_worker_exits_total')).toEqual({ faults: expect.any(Number) });
    expect(answer('progress="replaced"')).toEqual({ text: 1 });
    expect(answer('== bool 0')).toEqual({ '': 0 });
  });

  test('promtool finds no problems in the metrics of a running agent', async () => {
    const body = await scrape(agent.http);
    const checked = spawnSync('promtool', ['check', 'metrics'], { input: body, encoding: 'utf8' });
    expect(checked).toMatchObject({ status: 0, stdout: '', stderr: '' });
  });

  test('docs/metrics.md lists every series that exists', async () => {
    const body = await scrape(agent.http);
    // What the examples measure is in nobody's table.
    const names = [...body.matchAll(/^# TYPE (pitwarden_(?!app_)\w+)/gm)].map(([, name = '']) => name);
    expect(names.length).toBeGreaterThan(30);
    for (const name of names.filter((each) => !each.startsWith('pitwarden_agent_')))
      expect(page).toMatch(new RegExp(`\`${name}[\`{]`));
  });
});

interface Prometheus {
  query(query: string): Promise<readonly Result[]>;
  stop(): Promise<void>;
}

/** Starts a Prometheus that scrapes one target every second. */
async function startPrometheus(target: string): Promise<Prometheus> {
  const dir = mkdtempSync(join(tmpdir(), 'pw-'));
  writeFileSync(
    join(dir, 'prometheus.yml'),
    `global: { scrape_interval: 1s }\nscrape_configs: [{ job_name: pitwarden, static_configs: [{ targets: ['${target}'] }] }]\n`,
  );
  const flags = [`--config.file=${dir}/prometheus.yml`, `--storage.tsdb.path=${dir}/data`, '--log.format=json'];
  const child = spawn('prometheus', [...flags, '--web.listen-address=127.0.0.1:0'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let log = '';
  child.stderr.on('data', (data) => {
    log += data;
  });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const address = await until(
    () => /"address":"(127\.0\.0\.1:[1-9]\d*)"/.exec(log)?.[1],
    'prometheus to listen',
    () => log,
  );
  return {
    query: async (query) => {
      const response = await fetch(`http://${address}/api/v1/query?${new URLSearchParams({ query })}`);
      const { data, error } = (await response.json()) as { data?: { result: readonly Result[] }; error?: string };
      if (data === undefined) throw new Error(`${query}: ${error}`);
      return data.result;
    },
    stop: async () => {
      child.kill();
      await exited;
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
