/** `40%, shard 2 of 5`: what a command last reported; empty where it reported nothing. A negative fraction is unknown. */
export function progressWords(fraction: number, message: string): string {
  const percent = fraction < 0 ? '' : `${Math.round(fraction * 100)}%`;
  return percent === '' || message === '' ? percent + message : `${percent}, ${message}`;
}
