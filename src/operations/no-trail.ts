import type { Ledger } from '../ledger/ledger.ts';
import type { Trail } from './trail.ts';

/** A trail without rows. It asks for PostgreSQL where a row would need it. */
export function createNoTrail(ledger: Pick<Ledger, 'ping'>): Trail {
  return {
    async run(_act, perform) {
      await ledger.ping();
      return (await perform()).result;
    },
    runAtOnce: async (_act, perform) => (await perform()).result,
  };
}
