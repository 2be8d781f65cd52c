/**
 * The values of Prometheus' text, by series as it is written: `name{label="value"}`. Of a histogram the buckets, the sum and the
 * count.
 * @throws an Error for a line that is no series, a series that is there twice, and one without its TYPE line
 */
export function parseExposition(text: string): ReadonlyMap<string, number> {
  const typed = new Set([...text.matchAll(/^# TYPE (\S+) (?:counter|gauge|histogram)$/gm)].map(([, name]) => name!));
  const values = new Map<string, number>();
  for (const line of text.split('\n').filter((each) => each !== '' && !each.startsWith('#'))) {
    const [, series, name, value] = /^((\w+)(?:\{(?:\w+="[^"]*",?)+\})?) (\S+)$/.exec(line) ?? [];
    if (series === undefined) throw new Error(`no series: ${line}`);
    if (!typed.has(name!) && !typed.has(name!.replace(/_(bucket|sum|count)$/, ''))) throw new Error(`no type: ${line}`);
    if (values.has(series)) throw new Error(`twice: ${line}`);
    values.set(series, /^nan$/i.test(value!) ? Number.NaN : Number(value!.replace('Inf', 'Infinity')));
  }
  return values;
}

/** The names of the metrics, as in their TYPE lines. */
export function metricNames(text: string): string[] {
  return [...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name!);
}

/** The labels of each metric, without a histogram's `le`. */
export function labelsByName(text: string): ReadonlyMap<string, readonly string[]> {
  const series = [...parseExposition(text).keys()];
  return new Map(
    metricNames(text).map((name) => {
      const own = series.filter((each) => new RegExp(`^${name}(_bucket|_sum|_count)?(\\{|$)`).test(each));
      const labels = own.flatMap((each) => [...each.matchAll(/(\w+)="/g)].map(([, label]) => label!));
      return [name, [...new Set(labels)].filter((label) => label !== 'le')];
    }),
  );
}
