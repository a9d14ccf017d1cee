// The page: filters, claims, headline numbers, the table, and when the figures are drawn.

function select(name, label, options, value, change) {
  const box = html(html($("filters"), "label", {}, `${label} `), "select", { name });
  for (const text of options) html(box, "option", { value: text }, text);
  box.value = value;
  box.addEventListener("change", () => {
    change(box.value);
    writeHash();
    show();
  });
}

function showFilters() {
  const focused = document.activeElement?.closest("#filters") && document.activeElement.name;
  $("filters").replaceChildren();
  for (const [axis, label] of data.axes) {
    select(axis, label, optionsOf(axis), state.setting.choice[axis], (text) => {
      state.setting = nearest({ ...state.setting.choice, [axis]: text }, axis);
    });
  }
  const languages = Object.values(data.languages);
  const buckets = ["all", ...new Set(languages.map((one) => one.bucket))];
  const scripts = ["all", ...new Set(languages.map((one) => one.script).sort((a, b) => a.localeCompare(b)))];
  select("bucket", "Resource bucket", buckets, state.bucket, (bucket) => { state.bucket = bucket; });
  select("script", "Script", scripts, state.script, (script) => { state.script = script; });
  select("confidence", "Confidence", data.confidences, state.kind, (kind) => { state.kind = kind; });
  if (focused) document.querySelector(`#filters [name="${focused}"]`)?.focus();
}

// ---- numbers ----------------------------------------------------------------------------------------------

function jobsOf(parent, jobs) {
  const unfold = html(parent, "details");
  html(unfold, "summary", {}, `${jobs.length} ${jobs.length === 1 ? "job" : "jobs"}`);
  // thousands of ids: written only when they are unfolded
  unfold.addEventListener("toggle", () => {
    if (unfold.open && unfold.children.length === 1) for (const job of jobs) html(unfold, "code", {}, job);
  });
}

function showClaims(view) {
  $("claims").replaceChildren();
  for (const { title, a, b, levels } of view.setting.claims) {
    const claim = html($("claims"), "div");
    html(claim, "h3", {}, title);
    const list = html(claim, "ul");
    for (const sentence of levels[view.level] ?? []) {
      html(list, "li", {}, sentence.replace(/, (?=[−.])/g, ",\u00a0")); // an interval is not broken over two lines
    }
    const is_in = (code) => view.level === "all" || bucketOf(code) === view.level;
    const codes = Object.keys(data.languages).filter(is_in);
    const jobs = [a, b].flatMap((cell) => codes.flatMap((code) => rowOf(view, { cell }, code)?.jobs ?? []));
    jobsOf(claim, jobs);
  }
  const over = view.level === "all" ? "all languages" : `the ${view.level}-resource languages`;
  $("claims-scope").textContent = view.setting.claims.length
    ? `Over ${over}${state.script === "all" ? "" : ", whatever their script"}. In brackets 95% intervals, `
      + "paired by question; Holm's correction runs over all languages of a comparison."
    : "This setting has nothing to compare.";
}

function numbers(line, row, metrics, first) {
  for (const metric of metrics) {
    const value = valueOf(row, metric);
    const cell = html(line, "td", { "data-value": value ?? "" }, value === undefined ? "-" : short(value));
    const range = rangeOf(row, metric);
    if (range) html(cell, "small", {}, between(range).trim());
    const start = first && valueOf(first, metric);
    if (value === undefined || start === undefined || first === row) continue;
    html(cell, "small", { class: "change" }, signed(value - start));
  }
}

function showHeadline(view) {
  const body = $("headline").tBodies[0];
  body.replaceChildren();
  const rows = view.series.map((item) => groupOf(view, item));
  for (const [at, item] of view.series.entries()) {
    const row = rows[at];
    if (!row) continue;
    const line = html(body, "tr");
    const head = html(line, "th", { scope: "row" });
    html(head, "span", { class: "swatch", style: `background: var(--s${at % SYMBOLS.length})` });
    head.append(item.label);
    html(head, "small", {}, `${row.jobs.length} shards${row.seeds > 1 ? `, ${row.seeds} seeds` : ""}`);
    if (row.missing) html(line, "td", { colspan: data.headlines.length, class: "left warn" }, row.missing);
    else numbers(line, row, data.headlines.map(({ name }) => name), rows[0]);
  }
  $("headline-scope").textContent = `Macro means over ${languagesText(view.codes)}, then over seeds, with `
    + `95% intervals${state.script === "all" ? "" : " (not for a choice of scripts)"}. Last: difference to `
    + `${view.series[0].label}.`;
}

function showTable(view) {
  const body = $("numbers").tBodies[0];
  body.replaceChildren();
  const metrics = data.columns.map(([metric]) => metric);
  const buckets = bucketsOf(view);
  const levels = view.level !== "all" ? buckets : [...(buckets.length > 1 ? buckets : []), "all"];
  for (const item of view.series) {
    const rows = view.codes.map((code) => [nameOf(code), bucketOf(code), rowOf(view, item, code)]);
    const means = levels.map((level) => [`${level}, macro`, level, groupOf(view, item, level)]);
    for (const [order, [name, bucket, row]] of [...rows, ...means].entries()) {
      if (!row) continue;
      const line = html(body, "tr", order < rows.length ? {} : { class: "mean" });
      line.dataset.says = `${name} ${item.label}`.toLowerCase();
      line.dataset.jobs = row.jobs.join(" ");
      html(line, "th", { scope: "row", "data-value": order }, name);
      html(line, "td", { class: "left" }, bucket);
      html(line, "td", { class: "left" }, item.label);
      html(line, "td", { "data-value": row.n ?? "" }, row.n ?? "-");
      if (row.missing) {
        html(line, "td", { class: "left warn", colspan: metrics.length, "data-value": "" }, row.missing);
      } else numbers(line, row, metrics);
      jobsOf(html(line, "td", { class: "left" }), row.jobs);
    }
  }
  for (const head of heads) if (head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", "none");
  showWord();
}

// shows the rows whose language or cell has every word, or with a job whose id begins with it
function showWord() {
  const words = $("word").value.trim().toLowerCase().split(/\s+/);
  for (const row of $("numbers").tBodies[0].rows) {
    const { says, jobs } = row.dataset;
    // many ids begin with a short word such as `de` by chance
    const holds = (word) => says.includes(word) || (word.length > 4 && ` ${jobs}`.includes(` ${word}`));
    row.hidden = !words.every(holds);
  }
}

const heads = [...$("numbers").tHead.rows[0].cells];
function sort(column) {
  const down = heads[column].getAttribute("aria-sort") === "ascending";
  for (const head of heads) if (head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", "none");
  heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => {
    const cell = row.cells[column];
    return cell?.dataset.value ?? cell?.textContent ?? "";
  };
  const body = $("numbers").tBodies[0];
  body.append(...[...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // missing values come last in both directions
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return down ? -order : order;
  }));
}

// ---- the page ---------------------------------------------------------------------------------------------

function showFigures(view) {
  // base models alone are not before and after each other
  const is_trained = view.series.some((item) => !data.cells[item.cell].base);
  $("slopes").closest("section").hidden = !is_trained;
  // a confidence that is no probability has no calibration
  for (const id of ["reliability", "heat"]) $(id).closest("section").hidden = !errorOf(view);
  for (const plot of plots) {
    const title = plot.closest("section").querySelector("h2").textContent;
    const shown = `${labelsOf(view).join(", ")}; ${languagesText(view.codes)}`;
    plot.setAttribute("aria-label", `${title}: ${shown}. The tables have the numbers.`);
  }
  const figures = { slopes, dots, reliability, small: smallMultiples, heat };
  for (const [id, figure] of Object.entries(figures)) drawSoon($(id), (width) => figure(view, width));
  const rate = ["learning_rate", "label_smoothing"];
  for (const [id, axis, other] of [["by-rate", ...rate], ["by-smoothing", ...rate.toReversed()]]) {
    const lines = curves(view, axis, other);
    $(id).closest("figure").hidden = valuesOf(lines).length < 2;
    drawSoon($(id), (width) => response(view, lines, axis, width));
  }
  $("response").hidden = !document.querySelector("#response figure:not([hidden])");
}

function show() {
  $("tip").textContent = "";
  showFilters();
  const view = look();
  $("nothing").hidden = view.codes.length > 0;
  $("results").hidden = view.codes.length === 0;
  if (!view.codes.length) return;
  showClaims(view);
  showHeadline(view);
  showTable(view);
  showFigures(view);
}

const plots = [...document.querySelectorAll(".plot")];
const redraw = () => plots.filter((plot) => plot.figure).forEach((plot) => drawSoon(plot, plot.figure));
for (const plot of plots) {
  plot.addEventListener("keydown", (event) => walk(plot, event));
  plot.addEventListener("blur", () => leave(plot));
}
for (const [column, head] of heads.entries()) {
  head.querySelector("button")?.addEventListener("click", () => sort(column));
}
$("word").addEventListener("input", showWord);
// the hash is the state: a link to a part of the page must not replace it
for (const link of document.querySelectorAll("a[href^='#']")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const to = $(link.hash.slice(1));
    to.scrollIntoView();
    to.focus();
  });
}
addEventListener("hashchange", () => {
  readHash();
  show();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let [waiting, width] = [0, innerWidth];
addEventListener("resize", () => {
  if (innerWidth === width) return; // the address bar of a phone appeared or disappeared
  width = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(redraw, 100);
});
// on paper figures are light, and narrower, so that letters do not become too small
function forPaper(is_paper) {
  document.documentElement.classList.toggle("paper", is_paper);
  for (const plot of plots) if (plot.figure) draw(plot);
}
addEventListener("beforeprint", () => forPaper(true));
addEventListener("afterprint", () => forPaper(false));
readHash();
show();
