import type { RequestHandler } from 'express';
import type { Metrics } from '../../telemetry/metrics.ts';

/** `GET /metrics`: every series of this process, as Prometheus reads them. */
export function metrics({ metrics: own }: { metrics: Metrics }): RequestHandler {
  return async (_request, response) => {
    const text = await own.text();
    response.setHeader('Content-Type', own.contentType);
    response.send(text);
  };
}
