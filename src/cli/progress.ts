/**
 * The last progress report of a command as text, such as `40%, shard 2 of 5`; empty if there is none. A negative
 * fraction is unknown.
 */
export function progressWords(fraction: number, message: string): string {
  const percent = fraction < 0 ? '' : `${Math.round(fraction * 100)}%`;
  return percent === '' || message === '' ? percent + message : `${percent}, ${message}`;
}
