// What the other scripts use: elements, numbers as text, the data, and the state, which is kept in the hash.

const state = { setting: data.settings[0], bucket: "all", script: "all", kind: data.confidences[0] };
const $ = (id) => document.getElementById(id);

function html(parent, name, attributes = {}, text) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

// .123, -.045, 1.234
function short(value, digits = 3) {
  const text = value.toFixed(digits).replace(/^(-?)0\./, "$1.").replace("-", "−");
  return /^−[.0]*$/.test(text) ? text.slice(1) : text;
}
const signed = (value) => (Number(value.toFixed(3)) > 0 ? "+" : "") + short(value);
const between = (range) => (range ? ` [${short(range[0])}, ${short(range[1])}]` : "");

// ---- the data ---------------------------------------------------------------------------------------------

const place_of = Object.fromEntries(data.metrics.map((name, at) => [name, at]));
const valueOf = (row, metric) => row?.values?.[place_of[metric]] ?? undefined;
const rangeOf = (row, metric) => row?.ranges?.[place_of[metric]] ?? undefined;
const cellOf = (view, item) => data.results[view.setting.test][item.cell] ?? { languages: {}, groups: {} };
const rowOf = (view, item, code) => cellOf(view, item).languages[code];
const optionsOf = (axis) => [...new Set(data.settings.map(({ choice }) => choice[axis]).filter(Boolean))];
const sumOf = (rows, of) => rows.reduce((sum, row) => sum + of(row), 0);

// the bins of some languages pooled over languages and seeds, and their ECE
function pool(view, item, codes) {
  const sums = Array.from({ length: data.num_bins }, () => ({ count: 0, correct: 0, total: 0 }));
  const rows = codes.map((code) => rowOf(view, item, code)).filter(Boolean);
  for (const row of rows) {
    const flat = row.bins[view.kind];
    for (let at = 0; at < flat.length; at += 4) {
      const [bin, count, correct, confidence] = flat.slice(at, at + 4);
      sums[bin].count += count;
      sums[bin].correct += correct;
      sums[bin].total += confidence * count;
    }
  }
  const count = sumOf(sums, (bin) => bin.count);
  const bins = sums.map((bin, at) => ({
    ...bin, confidence: bin.total / bin.count, low: at / data.num_bins, high: (at + 1) / data.num_bins,
  }));
  return {
    bins: bins.filter((bin) => bin.count), count, correct: sumOf(sums, (bin) => bin.correct),
    confidence: sumOf(sums, (bin) => bin.total) / count,
    ece: sumOf(sums, (bin) => Math.abs(bin.correct - bin.total)) / count,
    done: sumOf(rows, (row) => row.done ?? row.jobs.length), planned: sumOf(rows, (row) => row.jobs.length),
  };
}

// the macro mean of a cell over the view's languages: the row of the study's table with its intervals; where a script
// is chosen, which the table has no row for, computed here without intervals
function groupOf(view, item, level = view.level) {
  const codes = view.codes.filter((code) => ["all", bucketOf(code)].includes(level));
  const members = codes.map((code) => rowOf(view, item, code)).filter(Boolean);
  if (!members.length) return undefined;
  const jobs = members.flatMap((row) => row.jobs);
  if (state.script === "all") return { ...cellOf(view, item).groups[level], jobs };
  const [{ seeds, missing, ranges }] = members;
  const num_missing = sumOf(members, (row) => (row.missing ? row.jobs.length - (row.done ?? row.jobs.length) : 0));
  const all = `${num_missing} of ${jobs.length} missing`;
  if (num_missing) return { jobs, seeds, missing: members.length === 1 ? missing : all };
  const mean = (at) => {
    const column = members.map((row) => row.values[at]);
    if (column.includes(null)) return null;
    if (!data.squared.includes(data.metrics[at])) return sumOf(column, Number) / column.length;
    const square = sumOf(column, (value) => value * Math.abs(value)) / column.length;
    return Math.sign(square) * Math.sqrt(Math.abs(square));
  };
  return {
    jobs, seeds, n: sumOf(members, (row) => row.n), values: data.metrics.map((_, at) => mean(at)),
    ranges: members.length === 1 ? ranges : [],
  };
}

// the current view: {setting, series, codes, kind, level}
function look() {
  const { setting, bucket, script, kind } = state;
  const series = setting.series.map(([cell, label]) => ({ cell, label }));
  const view = { setting, series, kind, level: bucket };
  const is_chosen = (code) => (bucket === "all" || bucketOf(code) === bucket)
    && (script === "all" || data.languages[code].script === script);
  const is_there = (code) => series.some((item) => rowOf(view, item, code));
  return { ...view, codes: Object.keys(data.languages).filter((code) => is_there(code) && is_chosen(code)) };
}

// ---- the state --------------------------------------------------------------------------------------------

// the setting with the wanted value of filter `first` that agrees most with the other wanted values
function nearest(wanted, first) {
  const agreement = (setting) => sumOf(Object.entries(wanted), ([axis, text]) => (
    (setting.choice[axis] === text) * (axis === first ? 100 : 1)
  ));
  return data.settings.reduce((best, setting) => (agreement(setting) > agreement(best) ? setting : best));
}

function readHash() {
  const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const languages = Object.values(data.languages);
  state.setting = nearest(wanted);
  state.bucket = languages.some((one) => one.bucket === wanted.bucket) ? wanted.bucket : "all";
  state.script = languages.some((one) => one.script === wanted.script) ? wanted.script : "all";
  state.kind = data.confidences.includes(wanted.confidence) ? wanted.confidence : data.confidences[0];
}

function writeHash() {
  const words = new URLSearchParams(state.setting.choice);
  if (state.bucket !== "all") words.set("bucket", state.bucket);
  if (state.script !== "all") words.set("script", state.script);
  words.set("confidence", state.kind);
  history.replaceState(null, "", `#${words}`);
}
