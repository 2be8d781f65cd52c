/**
 * A Redis that outlives a machine, on private ports: a primary with replicas and something that promotes one of them. Tests, chaos
 * and bench lose its primary with it. Each server stands for a machine of its own.
 */
export interface RedisTopology {
  readonly name: 'sentinel' | 'cluster';
  /** The settings by which API and workers reach it. */
  readonly env: Readonly<Record<string, string>>;
  /** The URL of the server that is the primary now, for a look from outside. */
  primaryUrl(): Promise<string>;
  /**
   * From now on these replicas get nothing from the primary, which does not notice at once. A machine whose network is cut looks
   * like this at first. @param count how many; all by default
   */
  cutReplicas(count?: number): Promise<void>;
  /** They follow their primary again. */
  healReplicas(): Promise<void>;
  /** Kills the primary and removes its disk. Resolves when it has ended, not when another has taken its place. */
  losePrimary(): Promise<void>;
  /** Kills one replica and removes its disk. */
  loseReplica(): Promise<void>;
  /** Kills the primary and starts it again at once, with its disk. */
  restartPrimary(): Promise<void>;
  /** An operator moves the primary, which is healthy. Resolves when another server is the primary. */
  moveAway(): Promise<void>;
  /** Resolves when a server is the primary and one replica at least follows it. Starts lost servers anew, empty, as replicas. */
  mend(): Promise<void>;
  /** Kills everything and removes its data. */
  dispose(): Promise<void>;
}
