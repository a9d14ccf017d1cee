// Reliability diagrams by resource bucket with histograms, and by language.

const UNIT = { range: [0, 1], tickvals: [0, 0.5, 1] };
const sizes = (codes) => {
  const joined = codes.map(nameOf).join(", ");
  return joined.length > 45 ? `${codes.length} languages` : joined;
};
const lineTrace = (place, x, y, name, color, dash, showlegend) => ({
  ...on(...place), type: "scatter", mode: "lines", x, y, line: { color: colour(color), dash, width: 1.3 },
  hoverinfo: "skip", name, legendgroup: name, showlegend,
});
function diagonal(...place) {
  return lineTrace(place, [0, 1], [0, 1], "perfect calibration", "muted", "dot", !place[0]);
}

const RARE = 0.01; // bins with a smaller share of the predictions are faded: they say little

// the curve without its rare bins, over the complete curve, which is faint
function curveTraces(place, pooled, title, number, marker) {
  const tips = pooled.bins.map((bin) => tooltip([
    title, `(${short(bin.low)}, ${short(bin.high)}]`, `confidence ${short(bin.confidence)}`,
    `accuracy ${short(bin.correct / bin.count)}`, `${bin.count} of ${pooled.count} predictions (n)`,
  ]));
  const is_rare = pooled.bins.map((bin) => bin.count < RARE * pooled.count);
  const y = pooled.bins.map((bin) => bin.correct / bin.count);
  const common = {
    ...on(...place), ...paint(seriesColour(number), marker), type: "scatter", mode: "lines+markers",
    x: pooled.bins.map((bin) => bin.confidence), name: safe(title), cliponaxis: false,
  };
  return [
    { ...common, y, opacity: 0.25, hovertext: tips.map((tip, at) => (is_rare[at] ? tip : "")) },
    {
      ...common, y: y.map((one, at) => (is_rare[at] ? null : one)),
      hovertext: tips.map((tip, at) => (is_rare[at] ? "" : tip)),
    },
  ];
}

// a group of panels for all languages shown and for each bucket, with a panel and a histogram per cell
function reliability(view, width) {
  const groups = [["all shown", view.codes]];
  for (const bucket of bucketsOf(view).length > 1 ? bucketsOf(view) : []) {
    groups.push([data.buckets[bucket], view.codes.filter((code) => bucketOf(code) === bucket)]);
  }
  const pools = groups.map(([, codes]) => view.series.map((item) => pool(view, item, codes)));
  const sharesOf = (pooled) => pooled.bins.map((bin) => bin.count / pooled.count);
  const highest = Math.max(0.1, ...pools.flat().flatMap(sharesOf));
  const count = view.series.length;
  // groups stand side by side where they fit; a group that is wider than the page starts a new line
  const most = Math.max(1, Math.floor(width / 160));
  const columns = count <= most ? count * Math.min(groups.length, Math.floor(most / count)) : most;
  const slots = count <= most ? count : Math.ceil(count / most) * most;
  const each = Math.min(width / columns, 290);
  const margin = { left: 38, right: 18, top: 66, bottom: 42 };
  const used = each * columns;
  const { boxes, total } = panels(used, slots * groups.length, each - 0.01, 1.45 * (each - 56), margin);
  const layout = layoutOf(used, total, ["perfect calibration", "mean confidence", "accuracy"]);
  const traces = [];
  for (const [group, [name, codes]] of groups.entries()) {
    for (const [number, { label }] of view.series.entries()) {
      const pooled = pools[group][number];
      const { x, y: [bottom, top] } = boxes[group * slots + number];
      const at = group * count + number;
      const [above, below] = [[at, 2 * at], [at, 2 * at + 1]];
      const upTo = (part) => bottom + part * (top - bottom);
      const first = (text) => (number ? {} : { title: { text } });
      const anchor = nth("x", at);
      addAxis(layout, "x", at, x, nth("y", 2 * at + 1), { ...UNIT, title: { text: "confidence" } });
      addAxis(layout, "y", 2 * at, [upTo(0.32), top], anchor, { ...UNIT, ...first("accuracy") });
      const share = { range: [0, highest], nticks: 3, ...first("share") };
      addAxis(layout, "y", 2 * at + 1, [bottom, upTo(0.25)], anchor, share);
      const text = (words, yshift, font) => {
        addText(layout, on(...above), words, { x: 0, y: 1, xanchor: "left", yshift, font });
      };
      if (!number) text(`<b>${name}: ${safe(sizes(codes))}</b>`, 36, { size: 13 });
      text(safe(label), 19, { color: seriesColour(number) });
      const partial = pooled.done < pooled.planned && `${pooled.done} of ${pooled.planned} shards`;
      const note = partial || `ECE of the pool ${short(pooled.ece)}`;
      text(pooled.count ? note : "missing", 5, { color: colour("muted") });
      traces.push(diagonal(...above));
      if (!pooled.count) continue;
      // areas are proportional to shares of the predictions, but never so small that a point vanishes
      const size = sharesOf(pooled).map((one) => Math.max(4, 20 * Math.sqrt(one)));
      const pair = curveTraces(above, pooled, `${name} · ${label}`, number, { size });
      const bars = {
        ...on(...below), type: "bar", width: 0.92 / data.num_bins,
        x: pooled.bins.map((bin) => (bin.low + bin.high) / 2), y: sharesOf(pooled),
        marker: { color: seriesColour(number), opacity: 0.6 },
        hovertext: pooled.bins.map((_, one) => pair.map(({ hovertext }) => hovertext[one]).join("")),
        name: pair[0].name,
      };
      const upright = (value) => [below, [value, value], [0, highest]];
      traces.push(
        ...pair, bars, lineTrace(...upright(pooled.confidence), "mean confidence", "ink", "solid", !at),
        lineTrace(...upright(pooled.correct / pooled.count), "accuracy", "ink", "dash", !at),
      );
    }
  }
  return { traces, layout };
}

// a small diagram per language with all cells in it
function smallMultiples(view, width) {
  const each = width / Math.max(2, Math.floor(width / 165));
  const margin = { left: 28, right: 12, top: 24, bottom: 24 };
  const { boxes, total } = panels(width, view.codes.length, each - 0.01, each - 40, margin);
  const layout = layoutOf(width, total, ["perfect calibration", ...labelsOf(view)]);
  const traces = [];
  for (const [at, code] of view.codes.entries()) {
    addAxis(layout, "x", at, boxes[at].x, nth("y", at), UNIT);
    addAxis(layout, "y", at, boxes[at].y, nth("x", at), UNIT);
    addText(layout, on(at), safe(nameOf(code)), { x: 0, y: 1, xanchor: "left", yshift: 1 });
    traces.push(diagonal(at));
    for (const [number, item] of view.series.entries()) {
      const pooled = pool(view, item, [code]);
      if (!pooled.count && rowOf(view, item, code)) {
        const where = { x: 0.03, y: 1, xanchor: "left", yanchor: "top", yshift: -26 * number, align: "left" };
        const font = { color: seriesColour(number) };
        addText(layout, on(at), `${safe(item.label)}:<br>missing`, { ...where, font });
      }
      const marker = { symbol: symbolOf(number), size: 5 };
      const [all, frequent] = curveTraces([at], pooled, `${nameOf(code)} · ${item.label}`, number, marker);
      const named = { name: safe(item.label), legendgroup: item.label };
      traces.push({ ...all, ...named }, { ...frequent, ...named, showlegend: at === 0 });
    }
  }
  return { traces, layout };
}
