import type { Responses, Schema } from './operation.ts';

interface ErrorDescription {
  readonly status: number;
  /** A sentence or two: when, and what it means for the request. */
  readonly text: string;
}

/** Every code that a node responds with. docs/errors.md says more; a test compares the two. */
export const ERRORS = {
  invalid_json: { status: 400, text: 'The body is empty, or is not JSON in UTF-8.' },
  invalid_request: { status: 400, text: '`errors` names each parameter and its fault.' },
  malformed_request: { status: 400, text: 'The bytes are not HTTP/1.1. The connection is closed.' },
  unauthorized: { status: 401, text: 'The credentials are missing or wrong.' },
  forbidden: {
    status: 403,
    text: 'A page of another site made a browser send this change, or its login may only look.',
  },
  not_found: { status: 404, text: 'It does not exist, or its setting is off.' },
  method_not_allowed: { status: 405, text: 'The path exists with other methods, which `Allow` lists.' },
  request_timeout: {
    status: 408,
    text: 'The headers did not end within 5 s, or the request not within 8 s. The connection is closed.',
  },
  conflict: { status: 409, text: 'The change does not fit the present state of the payment.' },
  payload_too_large: { status: 413, text: 'The body is above 64 KiB, or the extensions of a chunk are above 16 KiB.' },
  expectation_failed: { status: 417, text: 'An `Expect` header other than `100-continue`. The connection is closed.' },
  too_many_logins: {
    status: 429,
    text: 'More than five wrong logins within a second. The right one is always let in.',
  },
  headers_too_large: { status: 431, text: 'The headers are above 16 KiB. The connection is closed.' },
  internal_error: { status: 500, text: 'A fault of the service. Its log has the cause.' },
  queue_full: { status: 503, text: 'The queue is at its cap. The payment was not stored.' },
  queue_unavailable: {
    status: 503,
    text: 'Redis is down, hangs or is not set up as it must be. A payment may have been stored; posting it again is safe.',
  },
  busy: { status: 503, text: 'This process has its maximum of such requests under way.' },
  ledger_unavailable: { status: 503, text: 'PostgreSQL is down or locked.' },
} as const satisfies Readonly<Record<string, ErrorDescription>>;

export type ErrorCode = keyof typeof ERRORS;

/** What any request can get before a route sees it (connections.ts). */
export const CONNECTION_ERRORS: readonly ErrorCode[] = [
  'malformed_request',
  'request_timeout',
  'payload_too_large',
  'expectation_failed',
  'headers_too_large',
];

const RETRY_AFTER = {
  'Retry-After': {
    description: 'Seconds after which a retry makes sense.',
    required: true,
    schema: { type: 'integer', minimum: 1 },
  },
};

const HEADERS: Readonly<Record<number, Schema>> = {
  401: {
    'WWW-Authenticate': { description: 'The scheme to use.', required: true, schema: { type: 'string' } },
  },
  405: {
    // CONNECT gets none: it has no path.
    Allow: { description: 'The methods of this path.', schema: { type: 'string' } },
  },
  429: RETRY_AFTER,
  503: RETRY_AFTER,
};

const CODES = Object.keys(ERRORS) as ErrorCode[];

/** The body of an error, for `components.schemas`. */
export const ERROR_SCHEMAS: Readonly<Record<string, Schema>> = {
  Error: {
    type: 'object',
    description: 'The body of an error. Each response lists the codes that it can have.',
    required: ['error'],
    properties: {
      error: { type: 'string', description: 'Stable.', enum: CODES },
      message: { type: 'string', description: 'A sentence for people, where the code does not say enough.' },
    },
  },
  InvalidRequest: {
    type: 'object',
    description: 'Everything that is wrong with a request.',
    required: ['error', 'errors'],
    properties: {
      error: { type: 'string', const: 'invalid_request' },
      errors: {
        type: 'array',
        minItems: 1,
        items: {
          type: 'object',
          required: ['param', 'message'],
          properties: { param: { type: 'string' }, message: { type: 'string' } },
        },
      },
    },
  },
};

/** `components.responses`: one for each code, under its name. */
export const ERROR_RESPONSES = Object.fromEntries(CODES.map((code) => [code, responseOf([code])]));

/** The responses that have these codes, by status. Several codes of one status share a response. */
export function errorResponses(codes: readonly ErrorCode[]): Responses {
  const byStatus = Map.groupBy(codes, (code) => ERRORS[code].status);
  return Object.fromEntries(
    [...byStatus].map(([status, [first, ...others]]) => [
      status,
      others.length === 0 ? { $ref: `#/components/responses/${first}` } : responseOf([first!, ...others]),
    ]),
  );
}

/** Codes of one status. */
function responseOf(codes: readonly [ErrorCode, ...ErrorCode[]]): Schema {
  const plain = codes.filter((code) => code !== 'invalid_request');
  const schemas = [
    ...(plain.length > 0
      ? [{ $ref: '#/components/schemas/Error', properties: { error: { enum: plain }, message: {} } }]
      : []),
    ...(plain.length < codes.length ? [{ $ref: '#/components/schemas/InvalidRequest' }] : []),
  ];
  const headers = HEADERS[ERRORS[codes[0]].status];
  return {
    description: codes.map((code) => `\`${code}\`: ${ERRORS[code].text}`).join('\n\n'),
    ...(headers && { headers }),
    content: { 'application/json': { schema: schemas.length === 1 ? schemas[0] : { oneOf: schemas } } },
  };
}
