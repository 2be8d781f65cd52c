import type { GatewayName } from '../payment.ts';

/** How the ledger's columns name a gateway. The names are the challenge's; the summary's JSON has them, too. */
export type GatewayColumn = 'default' | 'fallback';

export function toGatewayColumn(gateway: GatewayName): GatewayColumn {
  return gateway === 'primary' ? 'default' : gateway;
}

export function fromGatewayColumn(column: GatewayColumn): GatewayName {
  return column === 'default' ? 'primary' : column;
}
