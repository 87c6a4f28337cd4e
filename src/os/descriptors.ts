import { readText } from './storage/read-text.ts';

/**
 * How many descriptors this process may have open: RLIMIT_NOFILE, whose soft limit Node raises to the hard limit at
 * startup. Infinity if the system does not report the limit.
 */
export function descriptorLimit(): number {
  const [, soft] = /^Max open files\s+(\d+|unlimited)/m.exec(readText('/proc/self/limits')) ?? [];
  return soft === undefined || soft === 'unlimited' ? Number.POSITIVE_INFINITY : Number(soft);
}
