import type { GatewayName } from '../payment.ts';

/** The names of the gateways in the ledger's columns. They are the challenge's names, as in the summary's JSON. */
export type GatewayColumn = 'default' | 'fallback';

export function toGatewayColumn(gateway: GatewayName): GatewayColumn {
  return gateway === 'primary' ? 'default' : gateway;
}

export function fromGatewayColumn(column: GatewayColumn): GatewayName {
  return column === 'default' ? 'primary' : column;
}
