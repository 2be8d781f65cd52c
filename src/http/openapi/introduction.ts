/** The text at the top of the document, in Markdown: what holds for every request, and who else may respond. */
export const INTRODUCTION = `Payrelay accepts payments at once, and pays each exactly once at one of two gateways.

**Errors.** Every error has a JSON body with a stable code, \`{"error": code}\`. A 429 and nearly every 503 have \`Retry-After\`.
Posting a payment again under the same \`correlationId\` is safe after every error and after no response at all.

**Fields.** Later versions may add fields to a body. Ignore those that you do not know.

**HEAD** gets the headers of GET, without a body.

**Any other request.** An unknown path gets 404, and a known path with another method 405. \`x-other-requests\` has these
responses.

**Headers.** Every response with a body forbids browsers framing, guessing of its type and, but for these documents, caching.

**nginx.** The compose stacks have nginx in front. It responds to some requests by itself, also in JSON:

| response of nginx | when |
|---|---|
| 400 \`malformed_request\` | the request is not HTTP as nginx reads it |
| 404 \`not_found\` | \`/metrics\`, which is not for outside |
| 405 \`method_not_allowed\` | TRACE, CONNECT |
| 413 \`payload_too_large\` | the body is above 65 KiB |
| 414 \`uri_too_long\`, 431 \`headers_too_large\` | the first line or one header is above 8 KiB, or all headers together above 16 KiB |
| 503 \`busy\`, with \`Retry-After\` | 2,000 requests of one address or 8,192 of all addresses are under way. The request had no effect |
| 503 \`unavailable\`, with \`Retry-After\` | no node responds. A payment may have been stored; posting it again is safe |
`;
