import type { RequestHandler } from 'express';
import { LedgerUnavailableError } from '../../errors.ts';
import { EMPTY_SUMMARY, type GatewayTotals, type Summary } from '../../ledger/ledger.ts';
import { parseRange, type SummaryRange } from '../../ledger/summary-range.ts';
import { describeError } from '../../process/describe-error.ts';
import { createOutageLog } from '../../process/outage-log.ts';
import type { AppDeps } from '../app.ts';

/**
 * `GET /payments-summary`: the totals of the ledger between two instants, both included. While PostgreSQL is down the
 * response has zeros and the header `X-Summary-Source: stub`, because the challenge's runner aborts at anything but a 200.
 * `X-Summary-Archived-Until` says that the range begins in archived time. The totals include archived payments.
 */
export function getSummary({ ledger, config, logger }: Pick<AppDeps, 'ledger' | 'config' | 'logger'>): RequestHandler {
  const outage = createOutageLog(logger, {
    message: 'summaries are served without the ledger',
    endMessage: 'summaries are served from the ledger again',
  });

  return async (request, response) => {
    const range = parseRange(request.query, config.summaryRange);
    const { summary, source } = await summarise(range);
    response.setHeader('X-Summary-Source', source);
    if (summary.archivedUntil) response.setHeader('X-Summary-Archived-Until', summary.archivedUntil.toISOString());
    response.json({ default: totals(summary.primary), fallback: totals(summary.fallback) });
  };

  async function summarise(range: SummaryRange): Promise<{ summary: Summary; source: 'ledger' | 'stub' }> {
    try {
      const summary = await ledger.summarise(range);
      outage.ended();
      return { summary, source: 'ledger' };
    } catch (error) {
      if (!(error instanceof LedgerUnavailableError)) throw error;
      outage.failed({ code: error.code, detail: describeError(error) });
      return { summary: EMPTY_SUMMARY, source: 'stub' };
    }
  }
}

/** Whole cents divided by 100 are the double nearest to the amount, which prints with at most two decimals. */
function totals({ totalRequests, totalAmountCents }: GatewayTotals) {
  return { totalRequests, totalAmount: totalAmountCents / 100 };
}
