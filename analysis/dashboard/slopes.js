// The slope chart: how each language changes from cell to cell, in panels from rich to poor in resources.

const NAMED = 3; // languages with their names, at the top and at the bottom of a panel

// positions near the wanted ones, in their order and `gap` apart: plotly lets texts overlap
function spread(wanted, gap, low, high) {
  const order = wanted.map((_, at) => at).sort((a, b) => wanted[a] - wanted[b]);
  const end = (place) => order.length - 1 - place;
  // once pushed up and once pushed down as far as needed; the mean of both is close to the wanted positions
  let [up, down] = [low - gap, high + gap];
  const [above, below] = [[], []];
  for (const place of order.keys()) {
    above[place] = up = Math.min(Math.max(wanted[order[place]], up + gap), high - end(place) * gap);
    below[end(place)] = down = Math.max(Math.min(wanted[order[end(place)]], down - gap), low + end(place) * gap);
  }
  const placed = [];
  for (const [place, at] of order.entries()) placed[at] = (above[place] + below[place]) / 2;
  return placed;
}

// `Swahili (sw): missing at SFT ε=0.1`, or the number of languages
function missingTexts(view, codes) {
  return view.series.flatMap((item) => {
    const missing = codes.filter((code) => rowOf(view, item, code)?.missing);
    const who = missing.length === 1 ? nameOf(missing[0]) : `${missing.length} languages`;
    return missing.length ? [`${who}: missing at ${item.label}`] : [];
  });
}

// a thin trace per language, names of the outermost languages with lines that lead to them, and the macro mean
function slopes(view, width) {
  const last = view.series.length - 1;
  const buckets = bucketsOf(view);
  const grid = metricsOf(view).flatMap((metric) => buckets.map((bucket) => [metric, bucket]));
  // a row per metric where the labels of the cells fit, in lines: `SFT`, `ε=0.1`
  const labels = labelsOf(view).map((label) => label.split(" "));
  const step = Math.max(45, widest(labels.flat()) + 2);
  const least = Math.max(280, 124 + step * last);
  const most_columns = buckets.length > 1 ? buckets.length : metricsOf(view).length;
  const columns = [most_columns, most_columns / 2].find((one) => Number.isInteger(one) && one * least <= width) ?? 1;
  const meansOf = (bucket) => view.series.map((item) => groupOf(view, item, bucket));
  // intervals of languages are not drawn
  const drawn = [...rowsOf(view).map((row) => ({ values: row?.values })), ...buckets.flatMap(meansOf)];
  const codesOf = (bucket) => view.codes.filter((code) => bucketOf(code) === bucket);
  const notes = Object.fromEntries(buckets.map((bucket) => [bucket, missingTexts(view, codesOf(bucket))]));
  const most = Math.max(...Object.values(notes).map((texts) => texts.length));
  const height = columns > 1 ? 230 : 170;
  const lines_of_label = Math.max(...labels.map((words) => words.length));
  const margin = { left: 32, right: 4, top: 48, bottom: 18 + 13 * lines_of_label + 14 * most };
  const { boxes, total } = panels(width, grid.length, width / columns - 0.01, height, margin);
  // narrow panels have codes of languages instead of names
  const is_wide = boxes[0].w - widest(view.codes.map(nameOf)) - 68 >= step * last;
  const called = (code) => (is_wide ? nameOf(code) : code);
  const room = widest(view.codes.map(called)) + 44;
  const layout = layoutOf(width, total, []);
  const steps = view.series.map((_, place) => place);
  const ticktext = labels.map((words) => words.map(safe).join("<br>"));
  const traces = [];
  for (const [at, [metric, bucket]] of grid.entries()) {
    const range = rangeOfAxis(metric, drawn);
    const lines = codesOf(bucket).map((code) => {
      const rows = view.series.map((item) => rowOf(view, item, code));
      return { code, rows, values: rows.map((row) => valueOf(row, metric.name) ?? null) };
    });
    const ended = lines.filter(({ values }) => values[last] !== null);
    ended.sort((a, b) => a.values[last] - b.values[last]);
    const named = ended.filter((_, place) => place < NAMED || place >= ended.length - NAMED);
    // the axis includes the names, since plotly hides what lies beyond it
    const px = { x: Math.max(last, 1) / (boxes[at].w - room - 24), y: (range[1] - range[0]) / height };
    const [left, right] = last ? [0, last] : [-0.5, 0.5];
    const xaxis = { range: [left - 24 * px.x, right + room * px.x], tickvals: steps, ticktext };
    addPanel(layout, at, boxes[at], metric.title, xaxis, axisOf(metric, range));
    const above = { x: 0.5, y: 1, yshift: 18, font: { color: colour(bucket) } };
    addText(layout, on(at), data.buckets[bucket], above);
    for (const [line, text] of notes[bucket].entries()) {
      const where = { x: 0, y: 0, xanchor: "left", yanchor: "top", xshift: 2 - margin.left };
      const yshift = 4 - margin.bottom + 14 * (most - line);
      addText(layout, on(at), safe(text), { ...where, yshift, font: { color: colour("warn") } });
    }
    const common = { ...on(at), type: "scatter", cliponaxis: false };
    const tellOf = (row, step, name) => tooltip(tipOf(row, metric, name, view.series[step].label));
    for (const { code, rows, values } of lines) {
      traces.push({
        ...common, ...paint(faint(colour(bucket)), { symbol: BUCKET_SYMBOLS[bucket], size: 5 }),
        mode: "lines+markers", x: steps, y: values, name: safe(nameOf(code)), meta: code,
        hovertext: rows.map((row, step) => (values[step] === null ? "" : tellOf(row, step, nameOf(code)))),
      });
    }
    const ends = named.map(({ values }) => values[last]);
    const heights = spread(ends, 12 * px.y, range[0] + 4 * px.y, range[1] - 4 * px.y);
    const [start, turn, name] = [8, 12, 32].map((one) => right + one * px.x);
    for (const [place, { code }] of named.entries()) {
      traces.push({
        ...common, ...paint(colour(bucket)), line: { color: colour("line"), width: 0.8 }, meta: code,
        mode: "lines+text", text: ["", "", safe(called(code))], textposition: "middle right",
        x: [start, turn, name], y: [ends[place], ends[place], heights[place]],
        name: "names", hoverinfo: "none",
      });
    }
    const means = meansOf(bucket);
    const [mean] = valueTraces({
      at, along: "y", positions: steps, rows: means, metric, edges: [], number: 0,
      names: labelsOf(view).map((label) => [`mean of ${languagesText(codesOf(bucket))}`, label]),
      name: "mean", mode: "lines+markers",
    });
    const bold = paint(colour(bucket), { symbol: BUCKET_SYMBOLS[bucket], size: 9 });
    traces.push({ ...mean, ...bold, line: { ...bold.line, width: 3 }, meta: `mean, ${bucket}`, showlegend: false });
  }
  return { traces, layout };
}
