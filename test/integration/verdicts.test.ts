import { expect } from 'chai';
import { eventually } from '../support/relay.ts';
import { accept, charged, hang, html, json, raw, respond, tell } from '../support/scripted-gateway.ts';
import { expectFallback, expectUnknown, scriptedRelay } from '../support/scripted-relay.ts';
import { groupsSideBySide } from '../support/side-by-side.ts';

/** A payment with an unknown outcome is sent again, and not looked up. */
function expectNoLookUps(asked: Readonly<Record<string, number>>): void {
  expect(Object.entries(asked).filter(([, count]) => count > 0)).to.deep.equal([]);
}

const EMPTY_CHUNKED = 'HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n';

describe('responses that are no payment', () => {
  groupsSideBySide(
    {
      'verdict on a status that is neither 2xx nor 422 nor 400': {
        'is unknown for redirects, also after the charge': async () => {
          expectNoLookUps(
            await expectUnknown({
              '301 to the same host': respond(301, '', { location: '/v2/payments' }),
              '302 to a login page': html(302, 'Found', { location: 'https://login.example/' }),
              '303 after the charge': charged(respond(303, '', { location: '/payments/1' })),
              '304 with no body': respond(304),
              '307 to another host': respond(307, '', { location: 'http://127.0.0.1:1/payments' }),
              '308 after the charge': charged(respond(308, '', { location: 'http://127.0.0.1:1/payments' })),
            }),
          );
        },
        'is unknown for a missing right, a wrong address and other 4xx, also after the charge': async () => {
          expectNoLookUps(
            await expectUnknown({
              '401 with a challenge': html(401, 'Unauthorized', { 'www-authenticate': 'Basic realm="staging"' }),
              '402 in JSON': json(402, { error: 'insufficient_funds' }),
              '403 page of a firewall': html(403, 'Attention Required! | Cloudflare'),
              '404 of the gateway': json(404, { message: 'no Route matched with those values' }),
              '404 page of another server, after the charge': charged(html(404, '404 Not Found')),
              '405 with Allow': respond(405, '', { allow: 'GET' }),
              '408 of a load balancer': html(408, 'Request Time-out'),
              '410 in JSON': json(410, { error: 'gone' }),
              '413 of a proxy': html(413, '413 Request Entity Too Large'),
              '418 in plain text': respond(418, 'short and stout'),
              '451 after the charge': charged(json(451, { message: 'unavailable for legal reasons' })),
              '499 of a proxy': respond(499),
            }),
          );
        },
        'is unknown for a 5xx, empty or not, before and after the charge': async () => {
          expectNoLookUps(
            await expectUnknown({
              'an empty 500': respond(500),
              'an empty 500 after the charge': charged(respond(500)),
              '500 in JSON': json(500, { message: 'could not save' }),
              '501 in HTML': html(501, 'Not Implemented'),
              'an empty 502 after the charge': charged(respond(502)),
              '502 in HTML': html(502, '502 Bad Gateway'),
              'an empty 503': respond(503),
              '503 in HTML after the charge': charged(html(503, '503 Service Temporarily Unavailable')),
              'an empty 504 after the charge': charged(respond(504)),
              '504 in HTML': html(504, '504 Gateway Time-out'),
              '520 of an edge after the charge': charged(respond(520, 'error code: 520')),
              '599 without a reason': raw('HTTP/1.1 599\r\nContent-Length: 0\r\n\r\n', 'close'),
            }),
          );
        },
        'is unknown with GATEWAY_EMPTY_500=refused for all but a complete empty 500': async () => {
          expectNoLookUps(
            await expectUnknown(
              {
                'a 500 with a message after the charge': charged(json(500, { message: 'timeout on commit' })),
                'a 500 with one space': respond(500, ' '),
                'a 500 with a line feed': respond(500, '\n'),
                'a 500 that is cut off before its body': charged(
                  raw('HTTP/1.1 500 Internal Server Error\r\nContent-Length: 10\r\n\r\n', 'close'),
                ),
                'a chunked 500 that is cut off': charged(
                  raw('HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n', 'reset'),
                ),
                'a 500 whose body never comes': charged((arrival) => {
                  arrival.response.writeHead(500, { 'content-length': '10' }).flushHeaders();
                }),
                'an empty 501': respond(501),
                'an empty 502 after the charge': charged(respond(502)),
                'an empty 503': respond(503),
                'an empty 504 after the charge': charged(respond(504)),
              },
              { env: { GATEWAY_EMPTY_500: 'refused' } },
            ),
          );
        },
        'is refused for a complete empty 500 with GATEWAY_EMPTY_500=refused': async () => {
          await expectFallback(respond(500), { GATEWAY_EMPTY_500: 'refused' });
        },
        'is refused for an empty chunked 500 with GATEWAY_EMPTY_500=refused': async () => {
          await expectFallback(raw(EMPTY_CHUNKED, 'stay'), { GATEWAY_EMPTY_500: 'refused' });
        },
        'is refused for an empty 429': async () => {
          await expectFallback(respond(429));
        },
        'is refused for a 429 with the page of a proxy': async () => {
          await expectFallback(html(429, 'Too Many Requests', { 'retry-after': 'soon' }));
        },
        'is unknown when GATEWAY_EMPTY_500 is not set': async () => {
          const relay = await scriptedRelay({ GATEWAY_EMPTY_500: '' });
          let isWell = false;
          relay.primary.onPayment = () => (isWell ? accept : charged(respond(500)));
          const ids = await relay.postMany(4);
          await relay.work();
          const startedAtMs = performance.now();
          await eventually(() => relay.primary.posts.some(({ atMs }) => atMs > startedAtMs + 1_000));
          isWell = true;
          await relay.recorded(ids);
          await relay.expectTrueBooks();
          expect(relay.fallback.posts).to.deep.equal([]);
        },
        'keeps a payment at the primary that was refused after an unknown attempt': async () => {
          const relay = await scriptedRelay();
          let isWell = false;
          relay.primary.onPayment = ({ attempt }) => {
            if (isWell) return accept;
            return attempt === 1 ? charged(html(502, '502 Bad Gateway')) : respond(429);
          };
          const ids = await relay.postMany(4);
          await relay.work();
          await eventually(() => ids.every((id) => relay.primary.postsOf(id).length >= 2), 15_000);
          isWell = true;
          await relay.hurry(ids);
          await relay.recorded(ids);
          await relay.expectTrueBooks();
          expect(relay.fallback.posts).to.deep.equal([]);
        },
      },

      'verdict on a connection without a complete response head': {
        'is unknown when it ends, is reset or stays silent, also after the charge': async () => {
          expectNoLookUps(
            await expectUnknown(
              {
                'closed without a byte': raw('', 'close'),
                'closed after the charge': charged(raw('', 'close')),
                'reset without a byte': raw('', 'reset'),
                'reset after the charge': charged(raw('', 'reset')),
                'silent after the charge': charged(hang),
                'closed in its status line': raw('HTTP/1.1 20', 'close'),
                'reset in its header lines, after the charge': charged(
                  raw('HTTP/1.1 200 OK\r\nContent-Type: application/js', 'reset'),
                ),
                'silent in its header lines': raw('HTTP/1.1 200 OK\r\nServer: ng', 'stay'),
              },
              { env: { GATEWAY_RECEIVE_TIMEOUT_MS: '600' } },
            ),
          );
        },
        'is unknown when it carries another protocol or changes to one, also after the charge': async () => {
          expectNoLookUps(
            await expectUnknown(
              {
                'greeting of a mail server': raw('220 mail.example ESMTP\r\n', 'close'),
                'banner of SSH, after the charge': charged(raw('SSH-2.0-OpenSSH_9.6\r\n', 'close')),
                'an alert of TLS': raw(Buffer.from('15030300020250', 'hex'), 'close'),
                'a response of an unknown version, after the charge': charged(raw('HTTP/9.9 200 OK\r\n\r\n', 'close')),
                '101 after the charge': charged(
                  raw('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n', 'stay'),
                ),
                '100 and then nothing': raw('HTTP/1.1 100 Continue\r\n\r\n', 'close'),
                'header lines without an end': raw(`HTTP/1.1 200 OK\r\nX-Filler: ${'x'.repeat(100_000)}`, 'close'),
                'two content lengths, after the charge': charged(
                  raw('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}', 'close'),
                ),
              },
              { env: { GATEWAY_RECEIVE_TIMEOUT_MS: '600' } },
            ),
          );
        },
        'takes the first requestedAt when a lost response is followed by a replayed 200': async () => {
          const relay = await scriptedRelay({ GATEWAY_RECEIVE_TIMEOUT_MS: '200' });
          relay.primary.onPayment = ({ attempt }) =>
            attempt === 1 ? charged(hang) : json(200, { message: 'payment processed successfully' });
          const id = await relay.post();
          await relay.work();
          await relay.recorded([id]);
          await relay.expectTrueBooks();
          expect(relay.primary.lookUpsOf(id).length, 'look-ups').to.be.greaterThan(0);
        },
        'does not record a replayed 200 while the look-up does not give what is on record': async () => {
          const relay = await scriptedRelay({ GATEWAY_RECEIVE_TIMEOUT_MS: '200' });
          let tells = false;
          relay.primary.onPayment = ({ attempt }) =>
            attempt === 1 ? charged(hang) : json(200, { message: 'payment processed successfully' });
          relay.primary.onLookUp = () => (tells ? tell : json(404, { message: 'not found' }));
          const id = await relay.post();
          await relay.work();
          await eventually(async () => {
            await relay.hurry([id]);
            return relay.primary.lookUpsOf(id).length >= 2;
          }, 15_000);
          expect([...(await relay.ledger()).keys()]).to.deep.equal([]);
          tells = true;
          await relay.hurry([id]);
          await relay.recorded([id]);
          await relay.expectTrueBooks();
        },
      },
    },
    { atOnce: 14 },
  );
});
