import { expect, test } from 'vitest';
import { ticksOfUptime } from '../../src/os/process/identity.ts';

test('an uptime converts to exactly the ticks that its digits show', () => {
  const wrong: string[] = [];
  for (let ticks = 0; ticks < 200_000; ticks += 1) {
    const text = `${Math.floor(ticks / 100)}.${String(ticks % 100).padStart(2, '0')} 12.34\n`;
    if (ticksOfUptime(text) !== ticks) wrong.push(text);
  }
  expect(wrong).toEqual([]);
  expect(ticksOfUptime('90210234.57 180420468.01\n')).toBe(9_021_023_457);
});
