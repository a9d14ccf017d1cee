// Figures over many cells: the heat map of language x cell, and the response to learning rate and smoothing.

// every cell of the view's model and benchmark: the base model once, then each trained cell by its full name
function cellsOfModel(view) {
  const cells = new Map();
  for (const { test, choice, apart, series } of data.settings) {
    if (test !== view.setting.test || choice.model !== view.setting.choice.model) continue;
    for (const [cell, label] of series) {
      const text = data.cells[cell].base || !apart ? label : `${apart} · ${label}`;
      const here = view.series.some((item) => item.cell === cell);
      if (!cells.has(cell)) cells.set(cell, { cell, label: text, here });
    }
  }
  return [...cells.values()].sort((a, b) => data.cells[b.cell].base - data.cells[a.cell].base);
}

const TOO_FEW = "no bin holds two examples";

// the maps of a view: the L2 ECE, and its change where there is one base model. `of(cell, language)` gives {row, value},
// {row, why} where the value is missing, and undefined where the cell was not planned in that language
function mapsOf(view, metric) {
  const items = cellsOfModel(view);
  const bases = items.filter((item) => data.cells[item.cell].base);
  const of = (item, code) => {
    const row = rowOf(view, item, code);
    const value = valueOf(row, metric.name);
    return row && { row, value, why: row.missing ?? (value === undefined ? TOO_FEW : undefined) };
  };
  const maps = [{ title: metric.title, items, of, text: short }];
  if (bases.length !== 1 || items.length === 1) return maps;
  const change = (item, code) => {
    const [after, before] = [of(item, code), of(bases[0], code)];
    if (!after || after.why) return after;
    if (before?.value !== undefined) return { ...after, value: after.value - before.value };
    return { row: after.row, why: `base: ${before?.why ?? "not planned"}` };
  };
  const title = `Change of ${metric.title}, against base`;
  return [...maps, { title, items: items.filter((item) => item !== bases[0]), of: change, text: signed }];
}

function tellTile({ row, value, why }, map, metric, name, label) {
  const lines = tipOf(why ? { ...row, missing: why } : row, metric, name, label);
  return tooltip(map.text === signed && value !== undefined ? [...lines, `against base: ${signed(value)}`] : lines);
}

function heat(view, width) {
  const metric = errorOf(view);
  const maps = mapsOf(view, metric);
  const { items } = maps[0];
  const room = widest(view.codes.map(nameOf)) + 12;
  const longest = widest(items.map((item) => item.label), FONT.size, "bold");
  // side by side where that leaves the numbers legible
  const least = Math.ceil(room + 4 + 40 * items.length);
  const beside = maps.length === 2 && 2 * least <= width;
  const cell = Math.max(18, Math.min(92, ((beside ? width / 2 : width) - room - 4) / items.length));
  const flat = longest < cell - 4;
  const each = Math.ceil(room + 4 + cell * items.length);
  const total_width = beside ? 2 * each : each;
  const margin = { left: room, right: 4, top: 44 + (flat ? 16 : longest + 8), bottom: 16 };
  const { boxes, total } = panels(total_width, maps.length, each, 19 * view.codes.length, margin);
  const is_whole = view.codes.every((code) => items.every((item) => !maps[0].of(item, code)?.why));
  const layout = layoutOf(total_width, total, is_whole ? [] : ["missing"]);
  const y = view.codes.map((_, row) => row);
  const yaxis = {
    range: [y.length - 0.5, -0.5], tickvals: y, ticktext: view.codes.map((code) => safe(nameOf(code))),
    tickfont: { color: colour("ink") }, showgrid: false,
  };
  const borders = y.filter((row) => row && bucketOf(view.codes[row]) !== bucketOf(view.codes[row - 1]));
  const traces = [];
  for (const [at, map] of maps.entries()) {
    const tiles = view.codes.map((code) => map.items.map((item) => map.of(item, code)));
    const z = tiles.map((line) => line.map((tile) => tile?.value ?? null));
    const is_change = map.text === signed;
    // an error below 0 has the colour of 0
    const most = Math.max(0.001, ...z.flat().map(is_change ? Math.abs : Number));
    const x = map.items.map((_, column) => column);
    const [left, right] = boxes[at].x;
    // the second map has no column for the base
    addAxis(layout, "x", at, [left, left + ((right - left) * x.length) / items.length], nth("y", at), {
      side: "top", range: [-0.5, x.length - 0.5], tickvals: x, tickangle: flat ? 0 : -90, showgrid: false,
      ticktext: map.items.map(({ label, here }) => (here ? `<b>${safe(label)}</b>` : safe(label))),
      tickfont: { color: colour("ink") },
    });
    addAxis(layout, "y", at, boxes[at].y, nth("x", at), yaxis);
    const deepest = `<span style="color:${colour("muted")}">deepest colour: ${short(most)}</span>`;
    const where = { x: 0, y: 1, xanchor: "left", xshift: -room, yshift: margin.top - 36, align: "left" };
    addText(layout, on(at), `<b>${map.title}</b><br>${deepest}`, where);
    layout.shapes.push(...borders.map((row) => ({
      type: "line", xref: `${nth("x", at)} domain`, x0: 0, x1: 1,
      yref: nth("y", at), y0: row - 0.5, y1: row - 0.5, line: { color: colour("edge"), width: 1.5 },
    })));
    const [less, none, more] = ["better", "bg", "worse"].map(colour);
    traces.push({
      ...on(at), type: "heatmap", x, y, z, xgap: 1, ygap: 1, showscale: false, zmax: most,
      zmin: is_change ? -most : 0,
      colorscale: is_change ? [[0, less], [0.5, none], [1, more]] : [[0, none], [1, more]],
      text: z.map((line) => line.map((value) => (value === null ? "" : map.text(value)))),
      texttemplate: cell >= 34 ? "%{text}" : "", textfont: { size: 10, color: colour("ink") },
      hovertext: tiles.map((line, row) => line.map((tile, column) => (
        tile ? tellTile(tile, map, metric, nameOf(view.codes[row]), map.items[column].label) : ""
      ))),
    });
    const pairs = y.flatMap((row) => x.map((column) => [column, row]));
    const missing = pairs.filter(([column, row]) => tiles[row][column]?.why);
    const cross = { symbol: "x-thin-open", size: 9, line: { width: 2 } };
    traces.push({
      ...on(at), ...paint(colour("edge"), cross), type: "scatter", mode: "markers", hoverinfo: "skip",
      x: missing.map(([column]) => column), y: missing.map(([, row]) => row),
      name: "missing", legendgroup: "missing", showlegend: at === 0,
    });
  }
  return { traces, layout };
}

// the settings that differ from the view's in at most one axis
const alike = (view, axis) => data.settings.filter((one) => one.test === view.setting.test
  && Object.entries(view.setting.choice).every(([name, text]) => name === axis || one.choice[name] === text));

// responses of the trained cells to one axis, a curve for each value of the other: [{label, points: [[x, item]]}]
function curves(view, axis, other) {
  const by_name = new Map();
  for (const setting of alike(view, "learning_rate")) {
    for (const [cell, label] of setting.series) {
      const { base, axes: { [axis]: x, [other]: line } } = data.cells[cell];
      if (base || typeof x?.value !== "number") continue;
      const name = line ? `${data.numeric[other].label}=${line.text}` : "SFT";
      if (!by_name.has(name)) by_name.set(name, { label: name, order: line?.value ?? 0, points: new Map() });
      by_name.get(name).points.set(x.value, { cell, text: x.text, label: `${label} · ${name}` });
    }
  }
  return [...by_name.values()].sort((a, b) => a.order - b.order)
    .map((curve) => ({ ...curve, points: [...curve.points].sort((a, b) => a[0] - b[0]) }));
}

// the values of the axis; with fewer than two there is no response to draw
function valuesOf(lines) {
  return [...new Set(lines.flatMap((line) => line.points.map(([value]) => value)))].sort((a, b) => a - b);
}

function response(view, lines, axis, width) {
  const { title } = data.numeric[axis];
  const values = valuesOf(lines);
  const texts = Object.fromEntries(lines.flatMap(({ points }) => points.map(([x, { text }]) => [x, text])));
  const base = view.series.find((item) => data.cells[item.cell].base);
  const start = base && groupOf(view, base);
  const metrics = metricsOf(view);
  const { boxes, total } = panels(width, metrics.length, 300, 220, { left: 42, right: 22, top: 30, bottom: 46 });
  const layout = layoutOf(width, total, [...(base ? ["base"] : []), ...lines.map((line) => line.label)]);
  // a smoothing of 0 has no logarithm
  const [scaled, unscaled, type] = axis === "learning_rate" && values[0] > 0
    ? [Math.log10, (value) => 10 ** value, "log"] : [Number, Number, "linear"];
  const span = scaled(values.at(-1)) - scaled(values[0]);
  const ends = [scaled(values[0]) - 0.1 * span, scaled(values.at(-1)) + 0.1 * span];
  const xaxis = { type, range: ends, tickvals: values, ticktext: values.map((x) => texts[x]), title: { text: title } };
  const traces = [];
  for (const [at, metric] of metrics.entries()) {
    const means = lines.map((line) => line.points.map(([, item]) => groupOf(view, item)));
    const rows = [start, ...means.flat()];
    const known = rows.flatMap((row) => [valueOf(row, metric.name) ?? [], rangeOf(row, metric.name) ?? []].flat());
    const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
    const slack = Math.max(0.02, (high - low) * 0.1);
    const [least, most] = metric.ends;
    const range = [Math.max(least, low - slack), Math.min(most ?? Infinity, high + slack)];
    const [px, seen] = [(range[1] - range[0]) / 220, {}];
    addPanel(layout, at, boxes[at], metric.title, xaxis, axisOf(metric, range));
    if (base) {
      const before = ends.map(() => valueOf(start, metric.name) ?? null);
      traces.push(lineTrace([at], ends.map(unscaled), before, safe(base.label), "muted", "dot", at === 0));
    }
    for (const [index, line] of lines.entries()) {
      // side by side, so that intervals do not hide each other
      const shift = ((index - (lines.length - 1) / 2) * 5 * (ends[1] - ends[0])) / boxes[at].w;
      traces.push(...valueTraces({
        at, along: "y", positions: line.points.map(([value]) => unscaled(scaled(value) + shift)),
        rows: means[index], metric,
        edges: missingBefore(seen, line.points.map(([value]) => value), means[index])
          .map((count) => range[0] + 13 * count * px),
        names: line.points.map(([, item]) => [`mean of ${languagesText(view.codes)}`, item.label]),
        number: index + 1, name: line.label, mode: "lines+markers",
      }));
    }
  }
  return { traces, layout };
}
