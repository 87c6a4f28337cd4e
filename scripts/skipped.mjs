/**
 * Returns the skip reasons that `maySkip`, a list with commas, does not excuse. The list excuses `needs WHAT` and
 * `needs WHAT: details` for each WHAT in it.
 */
export function mustRun(skipped, maySkip) {
  const excused = maySkip.split(',').map((what) => what.trim());
  const excuses = (why) => excused.includes(/^needs ([^:]+)/.exec(why)?.[1]);
  return [...new Set(skipped.map(({ why }) => why).filter((why) => !excuses(why)))];
}
