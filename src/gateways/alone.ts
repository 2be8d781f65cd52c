import type { GatewayDown } from './gateway.ts';

/** Since when, and why, a worker fails alone. */
export type AloneSince = Pick<GatewayDown, 'code' | 'detail' | 'since'>;

/**
 * Whether this worker fails alone at a gateway: its probes, with different payments, failed while other workers paid there. So
 * the fault lies on its own way to the gateway. One payment proves nothing: the gateway may dislike it.
 *
 * It ends with a payment of its own, or when no other worker can use the gateway either.
 */
export interface AloneWatch {
  readonly alone: AloneSince | undefined;
  /** A probe with this payment failed, although others had paid since the failure before. */
  failed(correlationId: string, cause: GatewayDown): void;
  /** This worker has paid. */
  paid(): void;
  /** No other worker can use the gateway. */
  lacksWitness(): void;
}

/** Payments whose probes failed against the word of others. Each of them may be unresolved, so not many. */
export const FAILS_ALONE_AFTER = 3;

export function createAloneWatch(onChange?: (alone: AloneSince | undefined) => void): AloneWatch {
  const failed = new Set<string>();
  let alone: AloneSince | undefined;

  function end(): void {
    failed.clear();
    if (alone === undefined) return;
    alone = undefined;
    onChange?.(undefined);
  }

  return {
    get alone() {
      return alone;
    },
    failed(correlationId, { code, detail }) {
      failed.add(correlationId);
      if (alone !== undefined || failed.size < FAILS_ALONE_AFTER) return;
      alone = { code, detail, since: new Date() };
      onChange?.(alone);
    },
    paid: end,
    lacksWitness: end,
  };
}
