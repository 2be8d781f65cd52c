/** What admin calls change while the gateway runs. */
export interface Settings {
  /** What admin calls must send as `X-Rinha-Token`. */
  token: string;
  delayMs: number;
  failure: boolean;
}

/** The longest delay of a Node timer. A longer one would fire at once. */
export const MAX_DELAY_MS = 2 ** 31 - 1;

export function isDelay(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_DELAY_MS;
}

/** @throws RangeError on a delay that is longer, negative or not whole */
export function assertDelay(delayMs: number): void {
  if (!isDelay(delayMs)) throw new RangeError(`delayMs must be a whole number from 0 to ${MAX_DELAY_MS}`);
}
