import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { configurationMarkdown, jsonSchema } from '../../src/config/reference.ts';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const stale = 'it is stale: run `npm run generate`';

test('docs/configuration.md matches the schema', () => {
  expect(read('docs/configuration.md'), stale).toBe(configurationMarkdown());
});

test('docs/config.schema.json matches the schema', () => {
  expect(JSON.parse(read('docs/config.schema.json')), stale).toEqual(JSON.parse(JSON.stringify(jsonSchema())));
});
