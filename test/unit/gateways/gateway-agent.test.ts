import type { ClientRequest } from 'node:http';
import { Socket } from 'node:net';
import { expect } from 'chai';
import { createGatewayAgent } from '../../../src/gateways/gateway-agent.ts';
import { atTestEnd } from '../../support/cleanup.ts';

describe('the phase of a failed request', () => {
  function phaseOf(request: Partial<ClientRequest> | undefined): string {
    const agent = createGatewayAgent({ poolSize: 1, connectionMaxAgeMs: 60_000 });
    atTestEnd(() => agent.close());
    return agent.phaseOf(request as ClientRequest | undefined);
  }

  it('is connecting when the request was never made, or never had a connection', () => {
    expect(phaseOf(undefined)).to.equal('connecting');
    expect(phaseOf({})).to.equal('connecting');
  });

  it('is connected over a connection that the agent did not make: the payment may have been sent', () => {
    expect(phaseOf({ socket: new Socket() })).to.equal('connected');
  });
});
