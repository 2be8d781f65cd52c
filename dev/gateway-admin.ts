import { type AdminSummary, readAdminSummary } from '../src/gateways/admin-summary.ts';

/** How a simulated gateway behaves. */
export interface GatewayBehaviour {
  readonly delayMs: number;
  /** Every payment is failed with 500, before it is charged. */
  readonly failure: boolean;
}

/** A payment as a simulated gateway lists it. */
export interface ListedPayment {
  readonly correlationId: string;
  readonly amount: number;
  /** ISO UTC with milliseconds. */
  readonly requestedAt: string;
}

/** The admin API of a simulated gateway. Every call throws an Error when the gateway is not reached or refuses. */
export interface GatewayAdmin {
  /** For payments that reach that step from now on. */
  configure(behaviour: GatewayBehaviour): Promise<void>;
  totals(): Promise<AdminSummary>;
  /** All that it holds. A call of ours: the official payment processor does not have it. */
  payments(): Promise<readonly ListedPayment[]>;
  purge(): Promise<void>;
}

/** @param token the gateway's own by default */
export function gatewayAdmin(url: string, token = '123'): GatewayAdmin {
  async function call(method: string, path: string, body?: object): Promise<Response> {
    const response = await fetch(`${url}/admin/${path}`, {
      method,
      headers: {
        'X-Rinha-Token': token,
        // A connection kept from an earlier call may have been closed while this process was busy.
        Connection: 'close',
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(`${url}/admin/${path} answered ${response.status}`);
    return response;
  }

  return {
    async configure({ delayMs, failure }) {
      await call('PUT', 'configurations/delay', { delay: delayMs });
      await call('PUT', 'configurations/failure', { failure });
    },
    totals: () => readAdminSummary(url, token),
    payments: async () => (await (await call('GET', 'payments')).json()) as ListedPayment[],
    async purge() {
      await call('POST', 'purge-payments');
    },
  };
}
