import type { Effect } from './keys.ts';
import { schema } from './schema.ts';

/** One key of the configuration. Below `pools` the name of a pool is `*`. */
export interface ConfigKey {
  readonly path: readonly string[];
  /** When a change of the key takes effect. */
  readonly takesEffect: Effect;
  readonly unit: string;
}

/** A node of the schema, which may be wrapped in a default. */
export interface SchemaNode {
  readonly shape?: Readonly<Record<string, unknown>>;
  readonly def?: { readonly innerType?: unknown; readonly valueType?: unknown };
  meta?(): { readonly takesEffect?: Effect; readonly unit?: string } | undefined;
}

/** Every key that has a value of its own; sections are not included. */
export function allKeys(): ConfigKey[] {
  return keysBelow(unwrap(schema), []);
}

export function unwrap(node: unknown): SchemaNode | undefined {
  let at = node as SchemaNode | undefined;
  while (at?.def?.innerType !== undefined) at = at.def.innerType as SchemaNode;
  return at;
}

function keysBelow(node: SchemaNode | undefined, path: readonly string[]): ConfigKey[] {
  return Object.entries(node?.shape ?? {}).flatMap(([name, child]) => keysAt(child as SchemaNode, [...path, name]));
}

function keysAt(node: SchemaNode, path: readonly string[]): ConfigKey[] {
  const inner = unwrap(node);
  if (inner?.shape !== undefined) return keysBelow(inner, path);
  const values = unwrap(inner?.def?.valueType);
  if (values?.shape !== undefined) return keysBelow(values, [...path, '*']);
  const { takesEffect, unit = '' } = node.meta?.() ?? {};
  if (takesEffect === undefined) throw new Error(`schema: expected ${path.join('.')} to say when it takes effect`);
  return [{ path, takesEffect, unit }];
}
