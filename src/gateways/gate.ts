import type { AttemptCause } from './gateway.ts';
import { createWaitingRoom, type Entry, type TiedPlaces, type Visitor } from './waiting-room.ts';

/**
 * What operators have decided about a gateway (queue/steering.ts). Every payment meets it before the circuit.
 *
 * | state    | free payments                   | tied payments                                     |
 * |----------|---------------------------------|---------------------------------------------------|
 * | open     | go on to the circuit            | go on to the circuit                              |
 * | draining | wait here, and leave room (below) | go on to the circuit, so that they come to an end |
 * | stopped  | wait here                       | go back to the queue, where operators can decide  |
 *
 * Payments that wait here are never a probe. Every decision ends their wait, and their own rule decides again: it may send
 * them elsewhere.
 *
 * **Room for tied payments.** They are fetched from the queue again and again, and free ones that wait as long as the gateway
 * drains could keep all places of the worker from them. So above the bound for tied payments a free one leaves after
 * {@link MAKES_ROOM_AFTER_MS}: slow enough to cost little, and every tied payment behind them has its turn.
 */
export interface Gate {
  readonly state: SteeringState;
  /** Why it is not open. */
  readonly cause: OperatorCause | undefined;
  /** Free payments that wait here. */
  readonly waiting: number;
  /** Why this payment may not be sent; undefined when it may go on. */
  causeFor(payment: Pick<Visitor, 'isTied'>): OperatorCause | undefined;
  /** For a payment that may not be sent: how its visit ends. */
  wait(visitor: Visitor): Entry | Promise<Entry>;
  steer(state: SteeringState, by?: SteeredBy): void;
  /** Ends every wait, because the process is shutting down. */
  close(): void;
}

export type SteeringState = 'open' | 'draining' | 'stopped';

export interface SteeredBy {
  readonly who: string;
  readonly reason: string | undefined;
  /** ISO 8601. */
  readonly at: string;
}

export interface OperatorCause extends AttemptCause {
  readonly code: 'stopped' | 'draining';
  /** A kind of its own: it proves nothing about any attempt. */
  readonly evidence: 'operator';
  readonly since: Date;
}

/** With 64 places, a worker whose gateway drains hands back at most 32 payments a second. */
export const MAKES_ROOM_AFTER_MS = 1_000;

export function createGate(tiedPlaces: TiedPlaces): Gate {
  const room = createWaitingRoom(tiedPlaces);
  let state: SteeringState = 'open';
  let cause: OperatorCause | undefined;

  /** How long this payment may keep its place, in ms. */
  function staysMs({ arrivedAtMs }: Visitor): number {
    if (state !== 'draining' || room.size < tiedPlaces.limit) return Number.POSITIVE_INFINITY;
    return arrivedAtMs + MAKES_ROOM_AFTER_MS - performance.now();
  }

  return {
    get state() {
      return state;
    },
    get cause() {
      return cause;
    },
    get waiting() {
      return room.size;
    },
    causeFor: ({ isTied }) => (isTied && state === 'draining' ? undefined : cause),
    wait(visitor) {
      if (visitor.isTied) return 'no_place';
      if (visitor.maxWaitMs <= 0) return 'gave_up';
      const limitMs = staysMs(visitor);
      if (limitMs <= 0) return 'no_place';
      if (limitMs >= visitor.maxWaitMs) return room.wait(visitor);
      const left = room.wait({ ...visitor, maxWaitMs: limitMs });
      return left.then((entry) => (entry === 'gave_up' ? 'no_place' : entry));
    },
    steer(next, by) {
      state = next;
      cause = next === 'open' ? undefined : causeOf(next, by);
      room.releaseAll(() => 'cause_changed');
    },
    close() {
      room.releaseAll(() => 'closed');
    },
  };
}

function causeOf(code: OperatorCause['code'], by: SteeredBy | undefined): OperatorCause {
  const reason = by?.reason === undefined ? '' : `: ${by.reason}`;
  return {
    code,
    detail: `${code === 'stopped' ? 'stopped' : 'drained'} by ${by?.who ?? 'an operator'}${reason}`,
    evidence: 'operator',
    since: by === undefined ? new Date() : new Date(by.at),
  };
}
