import type { ControlSource } from '../../src/grpc/control/source.ts';

/** The part of a ControlSource that reads the configuration again, of a file that changes nothing. */
const nothing = { ok: true, plan: { pools: [], node: [] }, restartNeeded: [] } as const;
export const noReload: ControlSource['reload'] = { apply: async () => nothing, plan: async () => nothing };
