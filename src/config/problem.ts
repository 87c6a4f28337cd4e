/** One thing that is wrong with the configuration; line and column count from 1, and are 0 where there is no place. */
export interface Problem {
  /** The file, or the command line's flag. */
  readonly file: string;
  readonly line: number;
  readonly column: number;
  /** The key, as in `pools.text.size`; empty for the file as a whole. */
  readonly path: string;
  readonly message: string;
}

/** `FILE:LINE:COLUMN: path: message`, one a line. */
export function formatProblems(problems: readonly Problem[]): string {
  return problems.map(formatProblem).join('\n');
}

function formatProblem({ file, line, column, path, message }: Problem): string {
  const place = line === 0 ? file : `${file}:${line}:${column}`;
  return path === '' ? `${place}: ${message}` : `${place}: ${path}: ${message}`;
}
