/** What a gateway says it was paid in a window of time. */
export interface AdminSummary {
  readonly totalRequests: number;
  readonly totalAmountCents: number;
}

/**
 * Asks a gateway what it was paid in the window, both ends included. Without bounds: since its start.
 * @throws an Error when the gateway is unreachable or responds with another status than 200.
 */
export async function readAdminSummary(
  url: string,
  token: string,
  { from, to }: { readonly from?: Date | undefined; readonly to?: Date | undefined } = {},
): Promise<AdminSummary> {
  // Unless both bounds are there, the gateway sums up everything (source: the official payment processor).
  const query = new URLSearchParams({
    from: (from ?? new Date(0)).toISOString(),
    to: (to ?? new Date('9999-12-31T23:59:59Z')).toISOString(),
  });
  const response = await fetch(`${url}/admin/payments-summary?${query}`, { headers: { 'X-Rinha-Token': token } });
  if (!response.ok) throw new Error(`${url} responded ${response.status} to the summary request`);
  const { totalRequests, totalAmount } = (await response.json()) as { totalRequests: number; totalAmount: number };
  return { totalRequests, totalAmountCents: Math.round(totalAmount * 100) };
}
