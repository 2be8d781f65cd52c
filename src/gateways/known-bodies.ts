/** Bodies of responses that a gateway is known to give for payments it has taken. Others must not be believed unasked. */
export interface KnownBodies {
  /**
   * Whether a response with this body means that the payment was taken.
   * @param ask looks the payment up: `confirmed` when the gateway has it with the very requestedAt that was sent in the first
   *   attempt, `on_record` when it has it, but that proves nothing about the body, `not_there` otherwise.
   * @returns `known` without a look-up of its own, or what the look-up gave.
   */
  judge<Found extends LookUpResult>(
    response: { body: string; correlationId: string; requestedAt: string },
    ask: () => Promise<Found>,
  ): Promise<{ readonly result: 'known' } | Found>;
}

export interface LookUpResult {
  readonly result: 'confirmed' | 'on_record' | 'not_there';
}

/** A gateway has a few dozen texts at most, and only for payments that it has taken. */
const MAX_BODIES = 48;

/** How often one payment with a known body is looked up all the same, in ms. */
const CHECK_EVERY_MS = 60_000;

/**
 * A body becomes known only when the look-up tells the very requestedAt that this attempt sent. Merely naming the id proves
 * nothing: an echo does, and a decline.
 *
 * Payments with the same unknown body wait for the look-up under way; confirmed, all of them are paid; if not, each asks
 * for itself. Once a minute one payment with a known body is looked up all the same; not there, and the body is forgotten.
 * @param onForgotten is called with a body that turned out to mean nothing. Payments it stood for may not have been made.
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

/** The text with what is this payment's own taken out, so that it is the same for every payment. */
function withoutPayment(body: string, correlationId: string, requestedAt: string): string {
  return body.replaceAll(correlationId, '').replaceAll(requestedAt, '');
}
