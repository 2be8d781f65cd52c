/** A gateway's own account of a window. */
export interface AdminSummary {
  readonly totalRequests: number;
  readonly totalAmountCents: number;
}

/**
 * What a gateway says it was paid in the window, both ends included; without bounds, ever.
 * @throws an Error when it is not reached or does not respond with 200.
 */
export async function readAdminSummary(
  url: string,
  token: string,
  { from, to }: { readonly from?: Date | undefined; readonly to?: Date | undefined } = {},
): Promise<AdminSummary> {
  // Without both bounds the gateway sums up everything (source: the official payment processor).
  const query = new URLSearchParams({
    from: (from ?? new Date(0)).toISOString(),
    to: (to ?? new Date('9999-12-31T23:59:59Z')).toISOString(),
  });
  const response = await fetch(`${url}/admin/payments-summary?${query}`, { headers: { 'X-Rinha-Token': token } });
  if (!response.ok) throw new Error(`${url} answered ${response.status} to the request for its summary`);
  const { totalRequests, totalAmount } = (await response.json()) as { totalRequests: number; totalAmount: number };
  return { totalRequests, totalAmountCents: Math.round(totalAmount * 100) };
}
