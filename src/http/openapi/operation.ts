import type { ErrorCode } from './errors.ts';

/** A JSON Schema, or another object of OpenAPI. */
export type Schema = Readonly<Record<string, unknown>>;

/** By status. */
export type Responses = Readonly<Record<string, Schema>>;

/** What the table of routes does not say about an endpoint. */
export interface Operation {
  readonly id: string;
  readonly tag: 'Payments' | 'Health' | 'Operator' | 'Documents';
  /** A few words. */
  readonly summary: string;
  /** In Markdown. */
  readonly description?: string;
  readonly parameters?: readonly Schema[];
  readonly requestBody?: Schema;
  /** All but the errors with a body `{"error": code}`. */
  readonly responses: Responses;
  /** The codes that the handler responds with. document.ts adds those of guards and of the connection. */
  readonly errors: readonly ErrorCode[];
}

/** A response with a JSON body. @param schema the name of a schema in `components` */
export function json(description: string, schema: string, headers?: Schema): Schema {
  return {
    description,
    ...(headers && { headers }),
    content: { 'application/json': { schema: { $ref: `#/components/schemas/${schema}` } } },
  };
}
