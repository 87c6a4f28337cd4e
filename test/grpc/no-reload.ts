import type { ControlSource } from '../../src/grpc/control/source.ts';

/** The part of a ControlSource that reads the configuration again, of a file that changes nothing. */
const nothing = { ok: true, plan: { pools: [], node: [] }, restartNeeded: [] } as const;
export const noReload: ControlSource['reload'] = { apply: async () => nothing, plan: async () => nothing };

/** The part of a ControlSource that takes up intents, of an agent whose disk fails. */
const unstored = { kind: 'unstored', message: 'a test without a disk' } as const;
export const noDesired: ControlSource['desired'] = { set: async () => unstored, release: async () => unstored };
