import { z } from 'zod';
import { schema } from './schema.ts';

/** Generates the JSON schema for editors and the reference page from the schema. */

/** A node of the JSON schema, with the keywords that our metadata adds. */
interface Described {
  readonly description?: string;
  readonly unit?: string;
  readonly takesEffect?: string;
  /** A default that depends on the machine. */
  readonly fallback?: string;
  readonly default?: unknown;
  readonly enum?: readonly string[];
  readonly properties?: Readonly<Record<string, Described>>;
  readonly additionalProperties?: Described | boolean;
  readonly required?: readonly string[];
}

/** The content of docs/config.schema.json. */
export function jsonSchema(): object {
  return { title: 'pitwarden configuration', ...(withoutOwnKeywords(described()) as object) };
}

/** The content of docs/configuration.md. */
export function configurationMarkdown(): string {
  const root = described();
  const pool = root.properties?.['pools']?.additionalProperties;
  if (typeof pool !== 'object') throw new Error('reference: expected the schema of a pool, got none');
  const top = Object.entries(root.properties ?? {}).filter(([key]) => key !== 'pools');
  return [
    intro,
    '## Keys of the agent\n',
    table(top.flatMap(([key, node]) => rows(key, node, root))),
    '\n## Keys of a pool\n',
    'Below `pools`, by name. A name is a lower-case letter, followed by up to 62 lower-case letters, digits, `_` or `-`.\n',
    table(Object.entries(pool.properties ?? {}).flatMap(([key, node]) => rows(key, node, pool))),
    '',
  ].join('\n');
}

const intro = `# Configuration

<!-- Generated from src/config/schema.ts by \`npm run generate\`; a test fails when it is stale. -->

The configuration is one YAML file: a regular file of at most 1 MiB. Only \`pools\` and a pool's \`app\` are required; every other
key has a default. Unknown keys are refused. \`pitwarden check FILE\` reports all problems at once, as \`FILE:LINE:COLUMN: key:
problem\`, and exits with 2 if there are any. For your editor there is a JSON schema, [config.schema.json](config.schema.json).

\`\`\`yaml
pools:
  text:
    app: text:app
    python: ../.venv/bin/python
    size: 2
    recycle:
      max_age: 1h
      memory: { soft: 400MiB, hard: 800MiB }
\`\`\`

Write durations with a unit: \`500ms\`, \`30s\`, \`5m\`, \`2h\`, \`1d\`. Write sizes with a unit too: \`512B\`, \`64KiB\`, \`400MiB\`, \`2GiB\`
(powers of two), or \`KB\`, \`MB\`, \`GB\` (powers of ten). Relative paths start at the folder of the file. The flags of
\`pitwarden agent\` (\`--runtime-dir\`, \`--state-dir\`, \`--http\`, \`--listen\`) override the file.

On \`SIGHUP\`, or by \`pitwarden reload\`, the agent reads the file again. It adds, resizes and changes pools, and removes pools (they drain first). The column
*takes effect* says when a changed key holds:

- *at once*: immediately, for running workers too
- *at once: workers are replaced*: the pool's workers are recycled, and each replacement is ready first, as \`recycle\` allows
- *with the next worker*: running workers keep the value that they were started with
- *with the agent's next start*: the log and \`pitwarden status\` name the changed keys

A reload changes nothing if the file has a problem or cannot be read within 10 s. \`pitwarden status\` shows the problem.
\`pitwarden plan\` shows beforehand what a reload would change.

A worker's environment has the pool's \`env\`, the \`PITWARDEN_…\` variables that the agent sets, and these variables of the agent's
own environment: \`PATH\`, \`HOME\`, \`USER\`, \`LOGNAME\`, \`SHELL\`, \`LANG\`, \`LANGUAGE\`, \`LC_*\`, \`TZ\`, \`TMPDIR\`, \`LD_LIBRARY_PATH\`,
\`DYLD_LIBRARY_PATH\`, \`SSL_CERT_FILE\`, \`SSL_CERT_DIR\`, \`CUDA_VISIBLE_DEVICES\` and \`NVIDIA_VISIBLE_DEVICES\`.
`;

function described(): Described {
  return z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as Described;
}

function table(lines: readonly string[]): string {
  return ['| key | default | unit | takes effect | meaning |', '| --- | --- | --- | --- | --- |', ...lines].join('\n');
}

/** A section's own row, then the rows of its keys. */
function rows(path: string, node: Described, parent: Described): string[] {
  const key = path.split('.').at(-1) ?? path;
  const inner = Object.entries(node.properties ?? {}).flatMap(([name, child]) => rows(`${path}.${name}`, child, node));
  if (inner.length > 0) return [`| **${path}** | | | | ${node.description ?? ''} |`, ...inner];
  const unit = node.unit ?? node.enum?.map((word) => `\`${word}\``).join(', ') ?? '';
  return [
    `| \`${path}\` | ${defaultOf(node, parent.required?.includes(key) === true)} | ${unit} | ${node.takesEffect ?? ''} | ${node.description ?? ''} |`,
  ];
}

function defaultOf(node: Described, required: boolean): string {
  if (node.fallback !== undefined) return node.fallback;
  if (node.default === undefined) return required ? 'required' : '';
  return typeof node.default === 'object' ? '`{}`' : `\`${String(node.default)}\``;
}

const ownKeywords: ReadonlySet<string> = new Set(['unit', 'fallback', 'takesEffect']);

function withoutOwnKeywords(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(withoutOwnKeywords);
  if (typeof node !== 'object' || node === null) return node;
  const isMap = 'properties' in node;
  const kept = Object.entries(node).filter(([key]) => !ownKeywords.has(key));
  return Object.fromEntries(
    kept.map(([key, value]) => [
      key,
      // Below `properties` the keys are those of the configuration.
      isMap && key === 'properties' ? mapValues(value as object, withoutOwnKeywords) : withoutOwnKeywords(value),
    ]),
  );
}

function mapValues(object: object, change: (value: unknown) => unknown): object {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]));
}
