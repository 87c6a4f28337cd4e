/** One problem of the configuration. Line and column count from 1, and are 0 if there is no location. */
export interface Problem {
  /** The file, or the flag of the command line. */
  readonly file: string;
  readonly line: number;
  readonly column: number;
  /** The key, such as `pools.text.size`; empty for the file as a whole. */
  readonly path: string;
  readonly message: string;
}

/** One `FILE:LINE:COLUMN: path: message` per line. */
export function formatProblems(problems: readonly Problem[]): string {
  return problems.map(formatProblem).join('\n');
}

function formatProblem({ file, line, column, path, message }: Problem): string {
  const place = line === 0 ? file : `${file}:${line}:${column}`;
  return path === '' ? `${place}: ${message}` : `${place}: ${path}: ${message}`;
}
