/** Random numbers that a seed repeats. */
export interface Random {
  /** 0 included, 1 excluded. */
  next(): number;
  between(from: number, to: number): number;
  pick<T>(values: readonly T[]): T;
}

/** mulberry32, a public-domain generator by Tommy Ettinger: 32 bits of state, good enough to draw faults with. */
export function createRandom(seed: number): Random {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    next,
    between: (from, to) => from + next() * (to - from),
    pick: (values) => values[Math.floor(next() * values.length)]!,
  };
}
