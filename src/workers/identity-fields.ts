import type { ProcessIdentity } from '../os/process/identity.ts';
import type { LedgerEntry } from '../os/storage/ledger.ts';

/** A process identity in the ledger's field names. */
export function identityFields({
  bootId,
  pid,
  startTime,
}: ProcessIdentity): Pick<LedgerEntry, 'boot_id' | 'pid' | 'start_time'> {
  return { boot_id: bootId, pid, start_time: startTime };
}
