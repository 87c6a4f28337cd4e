const alphabet = 'abcdefghijkmnpqrstuvwxyz23456789';

/** 40 random bits: ids stay unique across restarts of the agent without any stored state. */
export function idSuffix(random: () => number): string {
  let suffix = '';
  for (let i = 0; i < 8; i += 1) suffix += alphabet[Math.floor(random() * alphabet.length)] ?? 'x';
  return suffix;
}
