// Figures of one view {setting, series, codes, kind, level}; `look` in view.js makes the view.

const BUCKETS = Object.keys(data.buckets); // from rich to poor
const BUCKET_SYMBOLS = { high: "circle", mid: "square", low: "triangle-up", other: "diamond" };
const symbolOf = (at) => SYMBOLS[at % SYMBOLS.length];
const seriesColour = (at) => colour(`s${at % SYMBOLS.length}`);
// the headline metrics of the chosen confidence, as far as the protocol has them
const metricsOf = (view) => data.headlines.filter(({ name, confidence }) => (
  [null, view.kind].includes(confidence) && !data.lacks[view.setting.test].includes(name)
));
const errorOf = (view) => metricsOf(view).find(({ squared }) => squared);
const nameOf = (code) => data.languages[code].name;
const bucketOf = (code) => data.languages[code].bucket;
const bucketsOf = (view) => BUCKETS.filter((bucket) => view.codes.some((code) => bucketOf(code) === bucket));
const labelsOf = (view) => view.series.map((item) => item.label);
const rowsOf = (view) => view.codes.flatMap((code) => view.series.map((item) => rowOf(view, item, code)));
const languagesText = (codes) => `${codes.length} ${codes.length === 1 ? "language" : "languages"}`;

function tipOf(row, metric, name, label) {
  const lines = [`${name} · ${label}`];
  if (row.missing) lines.push(`missing: ${row.missing}`);
  else {
    const value = valueOf(row, metric.name);
    const text = value === undefined ? "-" : short(value);
    lines.push(`${metric.title}: ${text}${between(rangeOf(row, metric.name))}`);
    lines.push(`n = ${row.n}${row.seeds > 1 ? `, ${row.seeds} seeds` : ""}`);
  }
  lines.push(...row.jobs.slice(0, 5).map((job) => `job ${job}`));
  if (row.jobs.length > 5) lines.push(`and ${row.jobs.length - 5} more jobs, in the table`);
  return lines;
}

// accuracy and confidence have their full range; an L2 ECE, and a metric without an upper end, the range of these rows
function rangeOfAxis({ name, ends: [least, most], squared }, rows) {
  if (!squared && most !== null) return [least, most];
  const shown = rows.flatMap((row) => [valueOf(row, name) ?? 0, ...(rangeOf(row, name) ?? [])]);
  const lowest = squared ? Math.min(0, ...shown) * 1.05 : least;
  return [lowest, Math.min(most ?? Infinity, Math.max(0.05, ...shown) * 1.05)];
}

// an axis of values; an L2 ECE has a line at 0
const axisOf = ({ squared }, range) => ({ range, zeroline: squared, zerolinecolor: colour("line"), nticks: 6 });

// how many earlier cells are missing at each key, counted in `seen`, so that their words do not overlap
function missingBefore(seen, keys, rows) {
  return keys.map((key, k) => {
    const before = seen[key] ?? 0;
    seen[key] = before + (rows[k]?.missing !== undefined);
    return before;
  });
}

// the values of cell number `number` with their 95% intervals; where one is missing, the word `missing` at its place
// in `edges`; along: the axis of the values; names: [language, cell] of each, for the tooltip
function valueTraces({ at, along, positions, rows, metric, edges, names, number, name, mode }) {
  const values = rows.map((row) => valueOf(row, metric.name) ?? null);
  const tips = rows.map((row, k) => row && tooltip(tipOf(row, metric, ...names[k])));
  // plotly wants the ends of an interval as distances from the value
  const distances = (end, sign) => rows.map((row, k) => {
    const range = rangeOf(row, metric.name);
    return range ? sign * (range[end] - values[k]) : null;
  });
  const common = {
    ...on(at), ...paint(seriesColour(number), { symbol: symbolOf(number), size: 7 }), type: "scatter",
    [along === "x" ? "y" : "x"]: positions, legendgroup: name,
  };
  const is_missing = rows.map((row) => row?.missing !== undefined);
  return [{
    ...common, mode, [along]: values, hovertext: tips.map((tip, k) => (is_missing[k] ? "" : tip)),
    [`error_${along}`]: {
      type: "data", symmetric: false, array: distances(1, 1), arrayminus: distances(0, -1),
      width: 0, thickness: 1.3,
    },
    name: safe(name), showlegend: at === 0,
  }, {
    ...common, mode: "text", text: "missing", textposition: along === "x" ? "middle left" : "top center",
    [along]: is_missing.map((one, k) => (one ? edges[k] : null)),
    hovertext: tips.map((tip, k) => (is_missing[k] ? tip : "")),
    cliponaxis: false, name: "missing",
  }];
}

// languages from top to bottom under the titles of their buckets, a trace per cell
function dots(view, width) {
  const step = Math.max(19, 6 * view.series.length + 4);
  const [ticks, heights] = [[], {}];
  let height = 0;
  for (const bucket of bucketsOf(view)) {
    ticks.push([(height += height ? 25 : 10), `<b>${data.buckets[bucket]}</b>`]);
    for (const code of view.codes.filter((one) => bucketOf(one) === bucket)) {
      ticks.push([(heights[code] = height += step), safe(nameOf(code))]);
    }
  }
  height += step / 2 + 2;
  const margin = { left: Math.max(90, widest(view.codes.map(nameOf))) + 12, right: 18, top: 30, bottom: 26 };
  const metrics = metricsOf(view);
  const { boxes, total } = panels(width, metrics.length, 300, height, margin);
  const layout = layoutOf(width, total, labelsOf(view));
  const [tickvals, ticktext] = [ticks.map(([at]) => at), ticks.map(([, text]) => text)];
  const traces = [];
  for (const [at, metric] of metrics.entries()) {
    const range = rangeOfAxis(metric, rowsOf(view));
    const yaxis = { range: [height, 0], tickvals, ticktext, tickfont: { color: colour("ink") } };
    addPanel(layout, at, boxes[at], metric.title, axisOf(metric, range), yaxis);
    const apart = ((range[1] - range[0]) * Math.min(46, boxes[at].w / view.series.length)) / boxes[at].w;
    const seen = {};
    for (const [number, { label }] of view.series.entries()) {
      const rows = view.codes.map((code) => rowOf(view, view.series[number], code));
      const shift = (number - (view.series.length - 1) / 2) * Math.min(6, step / view.series.length);
      const positions = view.codes.map((code) => heights[code] + shift);
      const names = view.codes.map((code) => [nameOf(code), label]);
      traces.push(...valueTraces({
        at, along: "x", positions, rows, metric, names, number, name: label, mode: "markers",
        edges: missingBefore(seen, view.codes, rows).map((count) => range[1] - count * apart),
      }));
    }
  }
  return { traces, layout, byPoint: true };
}
