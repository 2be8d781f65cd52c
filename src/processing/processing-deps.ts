import type { FallbackConfig } from '../config.ts';
import type { Circuit } from '../gateways/circuit.ts';
import type { Gateway } from '../gateways/gateway.ts';
import type { Recorder } from '../ledger/recorder.ts';
import type { Logger } from '../process/logger.ts';

/** A gateway with the circuit that guards it. */
export interface GuardedGateway {
  readonly gateway: Gateway;
  readonly circuit: Circuit;
  /** When this process last saw it pay, in ms of `performance.now()`; -Infinity before the first. */
  lastPaidAtMs: number;
}

/** What every step of processing a payment may use. */
export interface ProcessingDeps {
  readonly primary: GuardedGateway;
  readonly fallback: GuardedGateway;
  readonly recorder: Pick<Recorder, 'lookUp' | 'record' | 'bury'>;
  readonly policy: FallbackConfig;
  /** A rejection must have lasted so long before it is believed, in ms (GATEWAY_REJECT_AFTER_MS). */
  readonly rejectAfterMs: number;
  /** Redis' time, in ms. */
  readonly nowMs: () => number;
  readonly logger: Logger;
}
