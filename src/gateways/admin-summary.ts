/** What a gateway says it was paid in a window of time. */
export interface AdminSummary {
  readonly totalRequests: number;
  readonly totalAmountCents: number;
}

/** Both ends included. A missing one is open. */
export interface AdminWindow {
  readonly from?: Date | undefined;
  readonly to?: Date | undefined;
}

/** Thrown when a gateway is unreachable or has no such admin call. The message is one sentence for people. */
export class AdminApiError extends Error {}

/**
 * Asks a gateway what it was paid in the window. Without bounds: since its start.
 * @throws AdminApiError
 */
export async function readAdminSummary(
  url: string,
  token: string,
  { from, to }: AdminWindow = {},
): Promise<AdminSummary> {
  // Unless both bounds are there, the gateway sums up everything (source: the official payment processor).
  const query = new URLSearchParams({
    from: (from ?? new Date(0)).toISOString(),
    to: (to ?? new Date('9999-12-31T23:59:59Z')).toISOString(),
  });
  const path = `/admin/payments-summary?${query}`;
  const response = await callAdmin(url, path, token);
  const body = (await response.json().catch(() => undefined)) as Partial<Record<string, unknown>> | undefined;
  const { totalRequests, totalAmount } = body ?? {};
  if (!response.ok || typeof totalRequests !== 'number' || typeof totalAmount !== 'number') {
    const what = response.ok ? 'without a summary' : `with status ${response.status}`;
    throw new AdminApiError(`${new URL(url).origin} responded ${what} to GET /admin/payments-summary`);
  }
  return { totalRequests, totalAmountCents: Math.round(totalAmount * 100) };
}

/** A payment as a gateway lists it. */
export interface AdminPayment {
  readonly correlationId: string;
  /** ISO UTC. */
  readonly requestedAt: string;
}

/**
 * Lists what a gateway has on record in the window. Undefined when it cannot: only the simulated gateway has this call.
 * @throws AdminApiError when it is unreachable
 */
export async function listAdminPayments(
  url: string,
  token: string,
  { from, to }: AdminWindow = {},
): Promise<readonly AdminPayment[] | undefined> {
  const response = await callAdmin(url, '/admin/payments', token);
  const body: unknown = await response.json().catch(() => undefined);
  if (!response.ok || !Array.isArray(body)) return undefined;
  const fromMs = from?.getTime() ?? Number.NEGATIVE_INFINITY;
  const toMs = to?.getTime() ?? Number.POSITIVE_INFINITY;
  return (body as AdminPayment[]).filter(({ requestedAt }) => {
    const atMs = Date.parse(requestedAt);
    return atMs >= fromMs && atMs <= toMs;
  });
}

async function callAdmin(url: string, path: string, token: string): Promise<Response> {
  try {
    return await fetch(`${url}${path}`, { headers: { 'X-Rinha-Token': token } });
  } catch (cause) {
    const { code } = ((cause as Error).cause ?? {}) as { code?: string };
    throw new AdminApiError(`${new URL(url).origin} is unreachable${code ? ` (${code})` : ''}`, { cause });
  }
}
