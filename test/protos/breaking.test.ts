import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { elements } from './elements.ts';

const root = join(import.meta.dirname, '../..');
const folder = 'pitwarden/v1';

/**
 * Elements of the last release that may be missing, as the failing test prints them, each with the reason. Each also has a line
 * `Breaking:` in CHANGELOG.md. The next release has none of them: empty the table then.
 */
const exceptions: Readonly<Record<string, string>> = {};

const { version, isLatest } = baseline(readFileSync(join(root, 'CHANGELOG.md'), 'utf8'));
const released = join(root, 'test/fixtures/protos', version, folder);
const current = join(root, 'proto', folder);
const howToRelease = `CHANGELOG.md says that ${version} is released: copy proto/pitwarden to test/fixtures/protos/${version}`;

/**
 * The release that the protos are compared with: the newest one. Before the first release it is that one as planned. `isLatest`:
 * nothing has changed since, so the protos are exactly those of the release.
 */
function baseline(changelog: string): { version: string; isLatest: boolean } {
  const headings = [...changelog.matchAll(/^## (.*)$/gm)].map(([, heading = '']) => ({
    number: /^\d+\.\d+\.\d+/.exec(heading)?.[0],
    isReleased: /^\d/.test(heading) && !heading.includes('not released'),
  }));
  const newest = headings.find(({ isReleased }) => isReleased);
  const { number } = newest ?? headings.at(-1) ?? {};
  if (number === undefined) throw new Error('CHANGELOG.md: expected a heading such as "## 1.2.3", got none');
  return { version: number, isLatest: newest !== undefined && newest === headings[0] };
}

const missing = (before: readonly string[], now: readonly string[]) => before.filter((line) => !now.includes(line));
const read = (path: string) => (existsSync(path) ? elements(readFileSync(path, 'utf8')) : []);

test('the protos have every element of the last release', () => {
  expect(existsSync(released), howToRelease).toBe(true);
  expect(readdirSync(released)).toEqual(expect.arrayContaining(['control.proto', 'execution.proto', 'link.proto']));
  const files = [...new Set([released, current].flatMap((path) => readdirSync(path)))];
  const compared = files.map((file) => ({ before: read(join(released, file)), now: read(join(current, file)) }));
  // A line that is lost is an element that was removed, renamed, retyped, renumbered, or moved to another file.
  const lost = compared.flatMap(({ before, now }) => missing(before, now));
  expect(lost.sort()).toEqual(Object.keys(exceptions).sort());
  const gained = compared.flatMap(({ before, now }) => missing(now, before));
  if (isLatest) expect(gained, howToRelease).toEqual([]);
});

test.each([
  ['## 0.1.0, not released yet', '0.1.0', false],
  ['## 0.1.0', '0.1.0', true],
  ['## 0.1.0 (2026-12-01)', '0.1.0', true],
  ['## Unreleased\n\n- A line.\n\n## 0.1.0', '0.1.0', false],
  ['## 0.2.0, not released yet\n\n## 0.1.0', '0.1.0', false],
  ['## 0.2.0\n\n## 0.1.0', '0.2.0', true],
])('the release to compare with is the newest: %j', (headings, version, isLatest) => {
  expect(baseline(`# Changelog\n\n${headings}\n`)).toEqual({ version, isLatest });
});

const sample = `syntax = "proto3";
package a.v1;
option go_package = "a/v1;av1";
service S {
  rpc Call(Question) returns (stream Answer);
}
message Question {
  string text = 1;
  optional uint32 size = 2;
  repeated int64 times = 3;
  map<string, int32> counts = 4;
  oneof choice {
    string one = 5;
    Kind two = 6;
  }
  reserved 7, 9 to 11;
  reserved "old";
  message Part {
    bytes data = 1;
  }
}
message Answer {}
enum Kind {
  KIND_UNSPECIFIED = 0;
  KIND_A = 1;
  reserved 2;
}
`;

function changed(from: string, to: string): string[] {
  expect(sample).toContain(from);
  return missing(elements(sample), elements(sample.replace(from, to)));
}

const text = 'string a.v1.Question.text = 1';
const call = 'rpc a.v1.S.Call(a.v1.Question) returns (stream a.v1.Answer)';
const choice = ['string a.v1.Question.one = 5 in oneof choice', 'a.v1.Kind a.v1.Question.two = 6 in oneof choice'];

test.each<[string, string, string, string[]]>([
  ['a field is removed', '  string text = 1;\n', '', [text]],
  ['a field is replaced by a reserved number', 'string text = 1;', 'reserved 1;', [text]],
  ['a field is renamed', 'string text', 'string words', [text]],
  ['a field is renumbered', 'text = 1', 'text = 8', [text]],
  ['a field is retyped', 'string text', 'bytes text', [text]],
  ['a field becomes repeated', 'string text', 'repeated string text', [text]],
  ['a field becomes optional', 'string text', 'optional string text', [text]],
  ['a field moves into a oneof', 'string text = 1;', 'oneof more { string text = 1; }', [text]],
  ['a field gets a JSON name', 'text = 1', 'text = 1 [json_name = "t"]', [text]],
  [
    'a field is no longer optional',
    'optional uint32',
    'uint32',
    ['uint32 a.v1.Question.size = 2 in oneof _size [proto3_optional = true]'],
  ],
  [
    'a field is no longer packed',
    'times = 3',
    'times = 3 [packed = false]',
    ['repeated int64 a.v1.Question.times = 3'],
  ],
  ['a map has other keys', 'map<string', 'map<bool', ['map<string, int32> a.v1.Question.counts = 4']],
  ['a map has other values', 'int32> counts', 'int64> counts', ['map<string, int32> a.v1.Question.counts = 4']],
  ['a oneof is renamed', 'oneof choice', 'oneof either', choice],
  ['a number is no longer reserved', 'reserved 7, 9', 'reserved 9', ['a.v1.Question reserves 7 to 7']],
  ['a name is no longer reserved', '  reserved "old";\n', '', ['a.v1.Question reserves old']],
  [
    'a message is renamed',
    'message Part',
    'message Piece',
    ['message a.v1.Question.Part', 'bytes a.v1.Question.Part.data = 1'],
  ],
  ['a value of an enum is removed', '  KIND_A = 1;\n', '', ['a.v1.Kind.KIND_A = 1']],
  ['a value of an enum is renamed', 'KIND_A', 'KIND_B', ['a.v1.Kind.KIND_A = 1']],
  ['a value of an enum is renumbered', 'KIND_A = 1', 'KIND_A = 3', ['a.v1.Kind.KIND_A = 1']],
  ['a number of an enum is no longer reserved', '  reserved 2;\n', '', ['a.v1.Kind reserves 2 to 2']],
  ['a method is renamed', 'rpc Call', 'rpc Ask', [call]],
  ['a method takes another message', '(Question)', '(Answer)', [call]],
  ['a method no longer streams', 'stream ', '', [call]],
  ['a service is renamed', 'service S', 'service T', ['service a.v1.S', call]],
  ['an option of the file changes', 'av1"', 'a1"', ['package a.v1 [go_package = a/v1;av1]']],
  [
    'an option of the file is new',
    'service',
    'option java_package = "a";\nservice',
    ['package a.v1 [go_package = a/v1;av1]'],
  ],
])('a break is seen: %s', (_, from, to, lost) => {
  expect(changed(from, to)).toEqual(lost);
});

test('a break is seen: another syntax', () => {
  const empty = (syntax: string) => elements(`syntax = "${syntax}"; package a; message M {}`);
  expect(missing(empty('proto3'), empty('proto2'))).toEqual(['syntax = "proto3"']);
});

test.each([
  ['a field more', 'string text', 'bool loud = 8; string text'],
  ['a field more in a oneof', 'string one', 'string zero = 8; string one'],
  ['a value more', 'KIND_A = 1;', 'KIND_A = 1; KIND_B = 3;'],
  ['a method more', 'service S {', 'service S { rpc Other(Answer) returns (Answer);'],
  ['a message more', 'message Answer', 'message More {} message Answer'],
  ['a reserved number more', 'reserved 7,', 'reserved 7, 12,'],
  ['a comment', 'string text', '// The text.\n string text'],
  ['a deprecated field', 'text = 1', 'text = 1 [deprecated = true]'],
  ['another way to name a type', '(Question)', '(a.v1.Question)'],
])('what breaks nothing is let through: %s', (_, from, to) => {
  expect(changed(from, to)).toEqual([]);
});
