import { type AdminSummary, readAdminSummary } from '../src/gateways/admin-summary.ts';

/** How a simulated gateway behaves. */
export interface GatewayBehaviour {
  readonly delayMs: number;
  /** The gateway responds 500 to every payment and charges nothing. */
  readonly failure: boolean;
}

/** A payment as a simulated gateway lists it. */
export interface ListedPayment {
  readonly correlationId: string;
  readonly amount: number;
  /** ISO UTC with milliseconds. */
  readonly requestedAt: string;
}

/** The admin API of a simulated gateway. Every call throws an Error when no 2xx response comes. */
export interface GatewayAdmin {
  /** Takes effect on payments that reach the step (delay, failure) from now on. */
  configure(behaviour: GatewayBehaviour): Promise<void>;
  totals(): Promise<AdminSummary>;
  /** All payments on record. The official payment processor does not have this call. */
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
        // The gateway may have closed a keep-alive connection while this process was busy.
        Connection: 'close',
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(`${url}/admin/${path} responded ${response.status}`);
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
