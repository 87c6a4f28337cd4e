/** The known word that was most likely meant, if one is close enough. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const limit = Math.max(1, Math.floor(word.length / 3) + 1);
  const ranked = known
    .map((candidate) => ({ candidate, distance: distance(simple(word), simple(candidate)) }))
    .sort((a, b) => a.distance - b.distance)[0];
  return ranked !== undefined && ranked.distance <= limit ? ranked.candidate : undefined;
}

/** `maxAge`, `max-age` and `max_age` count as the same word. */
function simple(word: string): string {
  return word.toLowerCase().replaceAll(/[_-]/g, '');
}

/** Number of letters to insert, delete, change or swap with a neighbour. */
function distance(a: string, b: string): number {
  const rows: number[][] = [Array.from({ length: b.length + 1 }, (_, column) => column)];
  const cell = (row: number, column: number): number => rows[row]?.[column] ?? 0;
  for (let row = 1; row <= a.length; row++) {
    rows.push([row]);
    for (let column = 1; column <= b.length; column++) {
      const changed = a[row - 1] === b[column - 1] ? 0 : 1;
      const swapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1];
      const steps = [cell(row - 1, column) + 1, cell(row, column - 1) + 1, cell(row - 1, column - 1) + changed];
      if (swapped) steps.push(cell(row - 2, column - 2) + 1);
      rows[row]?.push(Math.min(...steps));
    }
  }
  return cell(a.length, b.length);
}
