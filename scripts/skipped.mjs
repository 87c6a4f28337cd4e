/**
 * Of the reasons of skipped tests those that are no excuse: `needs WHAT` or `needs WHAT: details`, where WHAT is not in
 * this list with commas, or no such reason at all.
 */
export function mustRun(skipped, maySkip) {
  const excused = maySkip.split(',').map((what) => what.trim());
  const excuses = (why) => excused.includes(/^needs ([^:]+)/.exec(why)?.[1]);
  return [...new Set(skipped.map(({ why }) => why).filter((why) => !excuses(why)))];
}
