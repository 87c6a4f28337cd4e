import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import type { AppReport } from '../../src/domain/app-telemetry.ts';
import { boundsOf } from '../../src/domain/app-telemetry.ts';
import { telemetryBytesPerS } from '../../src/grpc/worker-link/telemetry.ts';
import { needs } from '../needs.ts';
import { appScene, counter, gauge, histogram, report, spansOf } from './app-telemetry.ts';

test('measurements of all workers of a pool are added up, those of different pools and labels are not', () => {
  const { from, lines, apps } = appScene();
  from('text', 0)(counter('rows', 2, { table: 'a' }), counter('rows', 1, { table: 'b' }));
  from('text', 1)(counter('rows', 5, { table: 'a' }));
  from('other', 0)(counter('rows', 7, { table: 'a' }));
  expect(lines()).toEqual([
    'pitwarden_app_rows_total{pool="text",table="a"} 7',
    'pitwarden_app_rows_total{pool="text",table="b"} 1',
    'pitwarden_app_rows_total{pool="other",table="a"} 7',
  ]);
  expect(apps.numbers().get('text')).toMatchObject({ series: 2, maxSeries: 1_000, measurements: 3 });
});

test('sums go on when a worker is replaced; its gauges go with it, unless its successor in the slot has set them', () => {
  const { from, lines, apps } = appScene();
  from('text', 0, 'first')(counter('rows', 2), gauge('depth', 4), gauge('age', 1));
  from('text', 1, 'second')(gauge('depth', 6));
  from('text', 0, 'third')(counter('rows', 3), gauge('depth', 5));
  apps.workerGone('first');
  expect(lines()).toEqual([
    'pitwarden_app_depth{pool="text",slot="0"} 5',
    'pitwarden_app_depth{pool="text",slot="1"} 6',
    'pitwarden_app_rows_total{pool="text"} 5',
  ]);
  apps.workerGone('second');
  apps.workerGone('third');
  expect(lines()).toEqual(['pitwarden_app_rows_total{pool="text"} 5']);
  expect(apps.numbers().get('text')?.series).toBe(1);
});

test('a histogram has cumulative buckets, their sum and their count', () => {
  const { from, lines, apps } = appScene();
  from('text', 0)(histogram('wait_seconds', 0.4, [3, 1]));
  from('text', 1)(histogram('wait_seconds', 900, [1, ...new Array(17).fill(0), 2]));
  const text = lines();
  const bounds = boundsOf('wait_seconds');
  expect(text).toHaveLength(bounds.length + 3);
  expect(text[0]).toBe('pitwarden_app_wait_seconds_bucket{pool="text",le="0.00025"} 4');
  expect(text[1]).toBe('pitwarden_app_wait_seconds_bucket{pool="text",le="0.0005"} 5');
  expect(text.slice(-4)).toEqual([
    'pitwarden_app_wait_seconds_bucket{pool="text",le="300"} 5',
    'pitwarden_app_wait_seconds_bucket{pool="text",le="+Inf"} 7',
    'pitwarden_app_wait_seconds_sum{pool="text"} 900.4',
    'pitwarden_app_wait_seconds_count{pool="text"} 7',
  ]);
  expect(apps.numbers().get('text')).toMatchObject({ series: text.length, measurements: 7 });
});

test('the series of a removed pool vanish, and a pool of the same name begins anew', () => {
  const { from, lines, apps } = appScene();
  from('text', 0)(counter('rows', 2));
  apps.forgetPool('text');
  from('text', 0)(counter('rows', 2));
  expect(lines()).toEqual([]);
  apps.setPool('text', { maxSeries: 10, size: 1 });
  from('text', 0)(counter('rows', 3));
  expect(lines()).toEqual(['pitwarden_app_rows_total{pool="text"} 3']);
});

describe('bounds', () => {
  test('series beyond max_series are dropped and counted; known ones go on, and other pools are not affected', () => {
    const { from, dropped, lines, apps } = appScene({ maxSeries: 20, size: 1 });
    for (let id = 0; id < 100; id += 1) from('text', 0)(counter('rows', 1, { id: `${id}` }));
    from('text', 0)(counter('rows', 1, { id: '0' }));
    from('other', 0)(counter('rows', 1));
    expect(dropped('text')).toEqual({ max_series: 80 });
    expect(dropped('other')).toEqual({});
    expect(apps.numbers().get('text')?.series).toBe(20);
    expect(lines()).toContain('pitwarden_app_rows_total{pool="text",id="0"} 2');
    expect(lines()).toContain('pitwarden_app_rows_total{pool="other"} 1');
  });

  test('a histogram counts as many series as it has lines', () => {
    const { from, dropped, apps } = appScene({ maxSeries: 30, size: 1 });
    from('text', 0)(histogram('a_seconds', 1, [1]), histogram('b_seconds', 1, [1]), counter('rows', 1));
    expect(dropped('text')).toEqual({ max_series: 1 });
    expect(apps.numbers().get('text')?.series).toBe(22);
  });

  test('one slot with ever new labels leaves half of the series to the others, whatever workers it has', () => {
    const { from, dropped, lines } = appScene({ maxSeries: 20, size: 2 });
    for (let id = 0; id < 100; id += 1) from('text', 0, `worker-${id % 3}`)(counter('rows', 1, { id: `${id}` }));
    expect(dropped('text')).toEqual({ slot_share: 90 });
    from('text', 1)(counter('rows', 1, { id: 'other' }));
    expect(lines()).toContain('pitwarden_app_rows_total{pool="text",id="other"} 1');
  });

  test('what gauges of ended workers leave may be used again', () => {
    const { from, dropped, apps } = appScene({ maxSeries: 5, size: 1 });
    for (let round = 0; round < 10; round += 1) {
      from('text', 0, `worker-${round}`)(...[1, 2, 3, 4, 5].map((id) => gauge('depth', 1, { id: `${round}-${id}` })));
      apps.workerGone(`worker-${round}`);
    }
    expect(dropped('text')).toEqual({});
    expect(apps.numbers().get('text')?.series).toBe(0);
  });

  test('reports of a worker beyond its bytes a second are dropped unread; those of its neighbour arrive', () => {
    const { from, dropped, later, lines } = appScene();
    const label = 'x'.repeat(128);
    const large = Array.from({ length: 300 }, (_, id) => counter('rows', 1, { id: `${label.slice(4)}${id}` }));
    for (let round = 0; round < 100; round += 1) from('text', 0)(...large);
    const { bytes = 0 } = dropped('text');
    expect(bytes).toBeGreaterThan(90);
    from('text', 1)(counter('rows', 1));
    expect(lines()).toContain('pitwarden_app_rows_total{pool="text"} 1');
    // A second later it has earned its share again.
    later(1_000);
    from('text', 0)(...large);
    expect(dropped('text')['bytes']).toBe(bytes);
    expect(telemetryBytesPerS).toBe(64 * 1024);
  });

  test('with max_series 0 nothing is taken, and a reload can set it at any time', () => {
    const { from, lines, apps, dropped } = appScene({ maxSeries: 0, size: 1 });
    from('text', 0)(counter('rows', 1));
    expect(apps.numbers().get('text')).toMatchObject({ series: 0, measurements: 0 });
    expect(dropped('text')).toEqual({});
    apps.setPool('text', { maxSeries: 2, size: 1 });
    from('text', 0)(counter('rows', 1), counter('lines', 1));
    apps.setPool('text', { maxSeries: 1, size: 1 });
    from('text', 0)(counter('rows', 1), counter('more', 1));
    expect(lines()).toEqual(['pitwarden_app_lines_total{pool="text"} 1', 'pitwarden_app_rows_total{pool="text"} 2']);
    expect(dropped('text')).toEqual({ max_series: 1 });
  });
});

test('a name keeps its kind in a pool; another pool may use it otherwise, and neither spoils it for the other', () => {
  const { from, dropped, apps, lines } = appScene();
  from('text', 0)(gauge('load', 1));
  from('text', 1)(histogram('load', 1, [1]), counter('load', 1));
  from('other', 0)(histogram('load', 3, [0, 1]));
  expect(dropped('text')).toEqual({ kind: 2 });
  expect(lines()).toContain('pitwarden_app_load{pool="text",slot="0"} 1');
  expect(lines()).toContain('pitwarden_app_load_sum{pool="other"} 3');
  expect(apps.render()).not.toContain('# TYPE');
});

test('sums stay finite', () => {
  const { from, dropped, lines } = appScene();
  from('text', 0)(counter('rows', 1.7e308));
  from('text', 0)(counter('rows', 1.7e308));
  expect(lines()).toEqual(['pitwarden_app_rows_total{pool="text"} 1.7e+308']);
  expect(dropped('text')).toEqual({ value: 1 });
});

test('what was dropped is logged, once a minute for each pool and reason', () => {
  const { from, warnings, later } = appScene({ maxSeries: 1, size: 1 });
  from('text', 0)(...[1, 2, 3, 4].map((id) => counter('rows', 1, { id: `${id}` })));
  later(59_999);
  from('text', 0)(counter('rows', 1, { id: '5' }));
  const why = 'the pool has as many series as telemetry.max_series allows';
  expect(warnings).toEqual([`pool text: measurements dropped: 1, the last of text-0: ${why}`]);
  later(1);
  from('text', 0, 'text-1')(counter('rows', 1, { id: '6' }));
  expect(warnings[1]).toBe(`pool text: measurements dropped: 4, the last of text-1: ${why}`);
  expect(warnings).toHaveLength(2);
});

test('followers get what a report added, and no more once they left; spans are read for them alone', () => {
  const { apps, from } = appScene({ maxSeries: 1, size: 1 });
  const followed: AppReport[] = [];
  const spans = spansOf([{ name: 'load_seconds', labels: [], duration_us: 5, began_at_ms: 7, request_id: 'r' }], 3);
  const send = () =>
    apps.receive(
      { workerId: 'w', pool: 'text', slot: 0 },
      report([counter('rows', 2), counter('beyond', 1)], [], spans),
    );
  send();
  const leave = apps.follow((each) => followed.push(each));
  send();
  from('other', 0)(counter('beyond', 1));
  leave();
  send();
  expect(followed).toMatchObject([
    {
      worker: { workerId: 'w', pool: 'text' },
      measured: [{ name: 'rows', count: 1, value: 2 }],
      spans: [{ name: 'load_seconds', labels: [], requestId: 'r', beganAtMs: 7, durationUs: 5, errorType: '' }],
      spansLeftOut: 3,
    },
    { worker: { workerId: 'other-0', pool: 'other' }, measured: [{ name: 'beyond' }], spans: [], spansLeftOut: 0 },
  ]);
  expect(followed).toHaveLength(2);
});

const promtool = spawnSync('promtool', ['--version']).status === 0;

test(
  'promtool finds no problems, whatever labels say',
  needs('prometheus', promtool, 'promtool is not on PATH'),
  () => {
    const { from, apps, lines } = appScene();
    const value = 'a "quoted" \\ back\nslash\t\x1b[0m \u202e é 😀';
    from('text', 0)(counter('rows', 1, { a: value, b: '' }), gauge('depth', -1e-9), gauge('load', 1));
    from('text', 1)(histogram('size_bytes', 1e21, [0, 0, 5]), gauge('depth', 2));
    from('other', 0)(counter('rows', 3), histogram('size_bytes', 1, [1]), histogram('load', 3, [1]));
    const shown = 'a \\"quoted\\" \\\\ back\\\\nslash\\\\t\\\\x1b[0m \\\\u202e é 😀';
    expect(lines()).toContain(`pitwarden_app_rows_total{pool="text",a="${shown}",b=""} 1`);
    const checked = spawnSync('promtool', ['check', 'metrics'], { input: apps.render(), encoding: 'utf8' });
    expect(checked).toMatchObject({ status: 0, stdout: '', stderr: '' });
  },
);
