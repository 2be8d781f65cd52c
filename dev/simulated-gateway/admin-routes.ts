import type { IncomingMessage, ServerResponse } from 'node:http';
import { parseJsonObject, parseTime } from './parse-payment.ts';
import type { PaymentBook } from './payment-book.ts';
import { readBody, send, sendJson, streamJsonArray } from './responses.ts';
import { isDelay, MAX_DELAY_MS, type Settings } from './settings.ts';

export interface AdminParts {
  readonly book: PaymentBook;
  readonly settings: Settings;
  set(change: { delayMs?: number; failure?: boolean }): void;
  changed(): void;
}

/** Serves an admin call, for example `GET /admin/payments-summary`. The caller has shown the token. */
export type AdminRoute = (call: string, query: URLSearchParams, req: IncomingMessage, res: ServerResponse) => void;

export function createAdminRoute({ book, settings, set, changed }: AdminParts): AdminRoute {
  function route(call: string, query: URLSearchParams, req: IncomingMessage, res: ServerResponse): void {
    switch (call) {
      case 'GET /admin/payments-summary':
        respondSummary(res, query);
        break;
      case 'GET /admin/payments': // Not in the official payment processor. The audit compares whole sets of payments.
        streamJsonArray(res, book.payments.values());
        break;
      case 'PUT /admin/configurations/token':
        readBody(req, res, (body) => configureToken(res, body));
        break;
      case 'PUT /admin/configurations/delay':
        readBody(req, res, (body) => configureDelay(res, body));
        break;
      case 'PUT /admin/configurations/failure':
        readBody(req, res, (body) => configureFailure(res, body));
        break;
      case 'POST /admin/purge-payments':
        book.purge();
        sendJson(res, 200, { message: 'All payments purged.' });
        changed();
        break;
      default:
        send(res, 404);
    }
  }

  function respondSummary(res: ServerResponse, query: URLSearchParams): void {
    const from = query.get('from');
    const to = query.get('to');
    const fromMs = from ? parseTime(from) : -Infinity;
    const toMs = to ? parseTime(to) : Infinity;
    if (fromMs === undefined || toMs === undefined) {
      sendJson(res, 400, { message: 'from and to must be ISO 8601 times' });
    } else if (from && to) {
      sendJson(res, 200, book.summarise(fromMs, toMs));
    } else {
      // The official SQL: BETWEEN from AND to OR from IS NULL OR to IS NULL. One bound alone is no bound.
      sendJson(res, 200, book.summarise(-Infinity, Infinity));
    }
  }

  function configureToken(res: ServerResponse, body: Buffer): void {
    const value = parseJsonObject(body)?.['token'];
    if (typeof value === 'string' && value !== '') {
      settings.token = value;
      send(res, 204);
    } else {
      sendJson(res, 400, { message: 'token must be a string that is not empty' });
    }
  }

  function configureDelay(res: ServerResponse, body: Buffer): void {
    const value = parseJsonObject(body)?.['delay'];
    if (isDelay(value)) {
      sendJson(res, 200, { config: 'delay', was: settings.delayMs, is: value });
      set({ delayMs: value });
    } else {
      sendJson(res, 400, { message: `delay must be a whole number of ms from 0 to ${MAX_DELAY_MS}` });
    }
  }

  function configureFailure(res: ServerResponse, body: Buffer): void {
    const value = parseJsonObject(body)?.['failure'];
    if (typeof value === 'boolean') {
      sendJson(res, 200, { config: 'failure', was: settings.failure, is: value });
      set({ failure: value });
    } else {
      sendJson(res, 400, { message: 'failure must be true or false' });
    }
  }

  return route;
}
