import type { RequestHandler } from 'express';
import { type PauseDeps, pauseQueue, resumeQueue } from '../../../operations/pause-queue.ts';
import { readReason } from './reason-body.ts';

/** `POST /admin/api/pause` and `/admin/api/resume`. The response has the state afterwards. */
export function changePause(act: 'pause' | 'resume', deps: PauseDeps): RequestHandler {
  const change = act === 'pause' ? pauseQueue : resumeQueue;
  return async (request, response) => {
    const reason = await readReason(request);
    response.json(await change({ who: String(response.locals['operator']), reason }, deps));
  };
}
