/** What happened, to compare two runs and to read the end of one. */
export interface Trace {
  note(atMs: number, what: unknown): void;
  /** The same for runs in which the same happened at the same times. */
  digest(): string;
  /** The newest lines. */
  last(): readonly string[];
}

const lastLines = 60;

export function createTrace(): Trace {
  // Fowler, Noll and Vo's FNV-1a, 32 bits.
  let hash = 0x811c9dc5;
  let lines: string[] = [];
  return {
    note: (atMs, what) => {
      const line = `${atMs.toFixed(3)} ${typeof what === 'string' ? what : brief(what as { type: string })}`;
      for (let at = 0; at < line.length; at += 1) hash = Math.imul(hash ^ line.charCodeAt(at), 0x01000193);
      lines.push(line);
      if (lines.length > 2 * lastLines) lines = lines.slice(-lastLines);
    },
    digest: () => (hash >>> 0).toString(16).padStart(8, '0'),
    last: () => lines.slice(-lastLines),
  };
}

function brief(what: { type: string; workerId?: string; pool?: unknown; record?: { kind: string; message: string } }) {
  const { type, workerId = '', record } = what;
  return `${type} ${workerId}${record === undefined ? '' : `${record.kind}: ${record.message.split('\n', 1)}`}`;
}
