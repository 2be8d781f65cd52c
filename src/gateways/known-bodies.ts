/** Response bodies that a gateway is known to send for payments it took. Any other body needs a look-up. */
export interface KnownBodies {
  /**
   * Whether a response with this body means that the payment was taken.
   * @param ask looks the payment up. It gives `confirmed` when the gateway has the payment with exactly the requestedAt of its
   *   first attempt, `on_record` when the gateway has it but this proves nothing about the body, and otherwise `not_there`.
   * @returns `known` when no look-up was necessary, or what the look-up gave.
   */
  judge<Found extends LookUpResult>(
    response: { body: string; correlationId: string; requestedAt: string },
    ask: () => Promise<Found>,
  ): Promise<{ readonly result: 'known' } | Found>;
}

export interface LookUpResult {
  readonly result: 'confirmed' | 'on_record' | 'not_there';
}

/** A gateway sends a few dozen different texts at most. */
const MAX_BODIES = 48;

/** How often a known body is checked by looking up one of its payments, in ms. */
const CHECK_EVERY_MS = 60_000;

/**
 * A body becomes known only when the look-up gives exactly the requestedAt that this attempt sent. A body that names the id
 * proves nothing: so do an echo and a decline.
 *
 * Payments with the same unknown body wait for the look-up under way. If it confirms the body, all of them are paid; if not,
 * each is looked up itself. Once a minute a payment with a known body is looked up as a check. If the gateway does not have
 * it, the body is forgotten.
 * @param onForgotten is called with a body that proved nothing. Payments with this body may not have been made.
 */
export function createKnownBodies(onForgotten: (body: string) => void): KnownBodies {
  const known = new Map<string, { nextCheckAtMs: number }>();
  const underWay = new Map<string, Promise<boolean>>();

  async function askAndLearn<Found extends LookUpResult>(text: string, ask: () => Promise<Found>): Promise<Found> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    underWay.set(text, promise);
    let isConfirmed = false;
    try {
      const found = await ask();
      isConfirmed = found.result === 'confirmed';
      if (isConfirmed) {
        known.set(text, { nextCheckAtMs: performance.now() + CHECK_EVERY_MS });
        const oldest = known.size > MAX_BODIES ? known.keys().next().value : undefined;
        if (oldest !== undefined) known.delete(oldest);
      }
      return found;
    } finally {
      underWay.delete(text);
      resolve(isConfirmed);
    }
  }

  return {
    async judge({ body, correlationId, requestedAt }, ask) {
      const text = withoutPayment(body, correlationId, requestedAt);
      const entry = known.get(text);
      if (entry !== undefined) {
        const nowMs = performance.now();
        if (nowMs < entry.nextCheckAtMs) return { result: 'known' };
        entry.nextCheckAtMs = nowMs + CHECK_EVERY_MS;
        const found = await ask();
        if (found.result === 'not_there' && known.delete(text)) onForgotten(text);
        return found;
      }
      const other = underWay.get(text);
      if (other === undefined) return askAndLearn(text, ask);
      return (await other) ? { result: 'known' } : askAndLearn(text, ask);
    },
  };
}

/** The text without this payment's id and time, so that it is the same for every payment. */
function withoutPayment(body: string, correlationId: string, requestedAt: string): string {
  return body.replaceAll(correlationId, '').replaceAll(requestedAt, '');
}
