import { type ParsedPayment, toDecimal } from './parse-payment.ts';

/** A payment on record: id in lower case, amount exact to the cent, requestedAt in ISO UTC with ms. */
export interface SimulatedPayment {
  readonly correlationId: string;
  readonly amount: number;
  readonly requestedAt: string;
}

export type PaymentBook = ReturnType<typeof createBook>;

/**
 * The payments on record. Beside the map, amounts and times are in two columns of numbers: so a summary of 1,000,000 payments,
 * requested during a measurement, takes a few milliseconds and makes no garbage.
 */
export function createBook(transactionFee: number) {
  const payments = new Map<string, SimulatedPayment>();
  const fee = toDecimal(transactionFee);
  const feeUnits = Number(fee.digits);
  let cents = new Float64Array(1024);
  let times = new Float64Array(1024);
  return {
    payments: payments as ReadonlyMap<string, SimulatedPayment>,
    /** False when the id is known. What was stored first stays. */
    insert({ correlationId, amountCents, requestedAtMs, requestedAt }: ParsedPayment): boolean {
      if (payments.has(correlationId)) return false;
      const index = payments.size;
      if (index === cents.length) {
        cents = doubled(cents);
        times = doubled(times);
      }
      cents[index] = amountCents;
      times[index] = requestedAtMs;
      payments.set(correlationId, { correlationId, amount: amountCents / 100, requestedAt });
      return true;
    },
    /** Both ends belong to the window. */
    summarise(fromMs: number, toMs: number) {
      let totalRequests = 0;
      let totalCents = 0;
      for (let index = 0; index < payments.size; index += 1) {
        const time = times[index] as number;
        if (time < fromMs || time > toMs) continue;
        totalRequests += 1;
        totalCents += cents[index] as number;
      }
      return {
        totalRequests,
        totalAmount: totalCents / 100,
        // Whole numbers up to one division at the end: 0.995, never 0.9950000000000001.
        totalFee: (totalCents * feeUnits) / 10 ** (fee.scale + 2),
        feePerTransaction: transactionFee,
      };
    },
    purge(): void {
      payments.clear();
    },
  };
}

function doubled(column: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(column.length * 2);
  larger.set(column);
  return larger;
}
