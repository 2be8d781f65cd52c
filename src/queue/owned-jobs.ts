import type { Job } from 'bullmq';

/**
 * Half of the least RELEASE_AFTER_MS. Far more than a lock lasts, so that an outage of Redis or a pause of the process ends no run
 * whose job no other worker has.
 */
const OWNED_FOR_MS = 30_000;

/**
 * When Redis last confirmed that the jobs in flight are this worker's. A worker that was frozen, or cut off from Redis, may find its
 * runs where it left them long after other workers have the jobs, and after an operator has released what it is about to send. A
 * mark in the job cannot stop it, because the primary gets payments without one. So a run sends nothing after {@link OWNED_FOR_MS}
 * without a confirmation.
 */
export interface OwnedJobs {
  /** The job was fetched. Its fetch was the first confirmation. */
  add(job: Job, token: string): void;
  remove(job: Job, token: string): void;
  /** Redis has renewed the locks of these jobs. */
  renewed(ids: readonly string[]): void;
  isOwned(job: Job, token: string): boolean;
}

export function createOwnedJobs(): OwnedJobs {
  /** By job. After a job was lost and fetched again by this worker, only its last run owns it. */
  const jobs = new Map<string, { readonly token: string; confirmedAtMs: number }>();
  return {
    add({ id, processedOn }, token) {
      // The reply to the fetch may have waited in a frozen process. BullMQ stamps the fetch when it is sent.
      const fetchedAgoMs = processedOn === undefined ? 0 : Math.max(0, Date.now() - processedOn);
      jobs.set(id!, { token, confirmedAtMs: performance.now() - fetchedAgoMs });
    },
    remove({ id }, token) {
      if (jobs.get(id!)?.token === token) jobs.delete(id!);
    },
    renewed(ids) {
      for (const id of ids) {
        const job = jobs.get(id);
        if (job) job.confirmedAtMs = performance.now();
      }
    },
    isOwned({ id }, token) {
      const job = jobs.get(id!);
      return job?.token === token && performance.now() - job.confirmedAtMs <= OWNED_FOR_MS;
    },
  };
}
