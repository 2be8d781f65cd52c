import { channel } from 'node:diagnostics_channel';
import { expect } from 'chai';
import { events } from '../../../src/telemetry/events.ts';

describe('events', () => {
  const paid = { gateway: 'primary', amountCents: 1990, recordMs: 5 } as const;

  it('reach their subscriber until it ends its subscription', () => {
    const seen: unknown[] = [];
    const unsubscribe = events.paymentPaid.subscribe((payload) => seen.push(payload));
    expect(events.paymentPaid.hasSubscribers).to.equal(true);
    events.paymentPaid.publish(paid);
    unsubscribe();
    expect(events.paymentPaid.hasSubscribers).to.equal(false);
    events.paymentPaid.publish(paid);
    expect(seen).to.deep.equal([paid]);
  });

  it('can be subscribed to by the name of their channel', () => {
    const seen: unknown[] = [];
    const onMessage = (message: unknown) => seen.push(message);
    channel('payrelay.payment.paid').subscribe(onMessage);
    events.paymentPaid.publish(paid);
    channel('payrelay.payment.paid').unsubscribe(onMessage);
    expect(seen).to.deep.equal([paid]);
  });

  it('have no subscribers by themselves', () => {
    expect(Object.values(events).filter(({ hasSubscribers }) => hasSubscribers)).to.deep.equal([]);
  });
});
