// What the figures share: colours, panels, axes, drawing, and reading by keys.
// A figure is a function of the view and a width that returns {traces, layout} for plotly.

const FONT = { family: 'system-ui, "Segoe UI", "Noto Sans", sans-serif', size: 11 };
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "hexagon", "star"];
const PAPER = { width: 696, height: 850 }; // px of an A4 page

// a colour of the current style: light, dark or paper
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const faint = (color) => `${color}80`; // half transparent; all colours of the style have six digits
const paint = (color, marker) => ({
  line: { color, width: 1.2 }, textfont: { color },
  marker: { color, opacity: 1, line: { width: 0 }, ...marker },
});

const ruler = document.createElement("canvas").getContext("2d");
function widest(texts, size = FONT.size, weight = "normal") {
  ruler.font = `${weight} ${size}px ${FONT.family}`;
  return Math.max(0, ...texts.map((text) => ruler.measureText(text).width));
}

// plotly interprets tags in texts; texts of a study must not be tags
const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const tooltip = ([first, ...lines]) => [`<b>${safe(first)}</b>`, ...lines.map(safe)].join("<br>");

// `count` panels of `height` px, as many side by side as get at least `least` px each; margin: px around each.
// Returns their domains and widths in px, and the total height
function panels(width, count, least, height, margin) {
  const columns = Math.max(1, Math.min(count, Math.floor(width / least)));
  const [each, outer] = [width / columns, height + margin.top + margin.bottom];
  const total = Math.ceil(count / columns) * outer;
  const boxes = Array.from({ length: count }, (_, at) => {
    const left = (at % columns) * each + margin.left;
    const top = Math.floor(at / columns) * outer + margin.top;
    const w = each - margin.left - margin.right;
    return { x: [left / width, (left + w) / width], y: [1 - (top + height) / total, 1 - top / total], w };
  });
  return { boxes, total };
}

// a layout without panels yet; entries: the texts of its legend
function layoutOf(width, height, entries) {
  // plotly sets a legend in columns of equal width, so its number of lines can be computed
  const entrywidth = Math.ceil(widest(entries, 12)) + 10;
  const top = 10 + 19 * Math.ceil(entries.length / Math.max(1, Math.floor(width / (entrywidth + 40))));
  const [ink, muted, clear] = [colour("ink"), colour("muted"), "rgba(0,0,0,0)"];
  const axis = {
    fixedrange: true, zeroline: false, ticks: "", gridcolor: colour("grid"), tickfont: { color: muted },
    title: { standoff: 4, font: { color: muted } },
  };
  const trace = [{ hoverinfo: "text", showlegend: false }];
  return {
    width, height: height + top, margin: { l: 0, r: 0, b: 0, t: top }, annotations: [], shapes: [],
    font: { ...FONT, color: ink }, paper_bgcolor: clear, plot_bgcolor: clear,
    dragmode: false, hovermode: "closest",
    hoverlabel: {
      align: "left", bgcolor: colour("panel"), bordercolor: colour("edge"), font: { size: 13, color: ink },
    },
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", entrywidth, font: { size: 12 } },
    showlegend: true,
    template: {
      layout: { xaxis: axis, yaxis: axis, annotationdefaults: { showarrow: false, yanchor: "bottom" } },
      data: { scatter: trace, bar: trace, heatmap: trace },
    },
  };
}

// panels count from 0; plotly's first axis is x, its second x2
const nth = (letter, at) => `${letter}${at ? at + 1 : ""}`;
const on = (x, y = x) => ({ xaxis: nth("x", x), yaxis: nth("y", y) });

function addAxis(layout, letter, at, domain, anchor, axis) {
  layout[`${letter}axis${at ? at + 1 : ""}`] = { domain, anchor, ...axis };
}

// more: position, in shares of the panel
function addText(layout, { xaxis, yaxis }, text, more) {
  layout.annotations.push({ text, xref: `${xaxis} domain`, yref: `${yaxis} domain`, ...more });
}

function addPanel(layout, at, box, title, xaxis, yaxis) {
  addAxis(layout, "x", at, box.x, nth("y", at), xaxis);
  addAxis(layout, "y", at, box.y, nth("x", at), yaxis);
  addText(layout, on(at), `<b>${safe(title)}</b>`, { x: 0.5, y: 1, yshift: 2, font: { size: 13 } });
}

// ---- drawing ----------------------------------------------------------------------------------------------

function draw(place) {
  if (!place.checkVisibility()) return; // inside a closed element: drawn once that is opened
  place.style.zoom = 1;
  near.unobserve(place);
  place.ariaBusy = "false";
  const { traces, layout, byPoint } = place.figure(place.clientWidth);
  const is_new = !place.data;
  Plotly.react(place, traces, layout, { displayModeBar: false, doubleClick: false, showTips: false });
  place.stops = stopsOf(traces, byPoint);
  place.at = -1;
  place.chosen = undefined;
  if (document.documentElement.classList.contains("paper")) {
    place.style.zoom = Math.min(1, PAPER.width / layout.width, PAPER.height / layout.height);
  }
  if (!is_new) return;
  place.on("plotly_hover", ({ points: [point] }) => tell(place, point));
  place.on("plotly_unhover", () => tell(place));
}

// draws a figure once it is near the visible part of the page
function drawSoon(place, figure) {
  place.figure = figure;
  place.ariaBusy = "true";
  near.unobserve(place);
  near.observe(place);
}
const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => draw(target)),
  { rootMargin: "300px" },
);

// plotly shows the tooltip of a point; this passes it to screen readers and highlights the point's language
function tell(place, point) {
  const text = [point?.pointNumber].flat().reduce((texts, at) => texts?.[at], point?.data.hovertext) ?? "";
  const { body } = new DOMParser().parseFromString(text.replaceAll("<br>", "\n"), "text/html");
  $("tip").textContent = body.textContent;
  const chosen = point?.data.meta; // the language of a slope
  if (chosen === place.chosen) return;
  place.chosen = chosen;
  Plotly.restyle(place, { opacity: place.data.map(({ meta }) => (!chosen || meta === chosen ? 1 : 0.15)) });
}

// all points with a tooltip, in the order in which the arrow keys visit them
function stopsOf(traces, byPoint) {
  const stops = traces.flatMap(({ xaxis, yaxis, hovertext = [] }, curveNumber) => {
    const stop = (pointNumber, text) => (text ? { curveNumber, pointNumber, subplot: xaxis + yaxis } : []);
    return hovertext.flatMap((text, row) => (
      Array.isArray(text) ? text.flatMap((one, column) => stop([row, column], one)) : stop(row, text)
    ));
  });
  const panel = ({ subplot }) => Number(subplot.split("y")[1] || 1);
  return byPoint ? stops.sort((a, b) => panel(a) - panel(b) || a.pointNumber - b.pointNumber) : stops;
}

function walk(place, event) {
  const { stops = [], at } = place;
  const end = stops.length - 1;
  const [next, back] = [Math.min(end, at + 1), Math.max(0, at - 1)];
  const arrows = { ArrowRight: next, ArrowDown: next, ArrowLeft: back, ArrowUp: back };
  const to = { ...arrows, Home: 0, End: end, Escape: -1 }[event.key];
  if (to === undefined || end < 0) return;
  event.preventDefault();
  place.at = to;
  if (to < 0) return leave(place);
  const { subplot, curveNumber, pointNumber } = stops[to];
  tell(place, { data: place.data[curveNumber], pointNumber });
  const [yval, xval] = [pointNumber].flat();
  const where = Array.isArray(pointNumber) ? { xval, yval } : { pointNumber }; // plotly finds a tile by its place
  Plotly.Fx.hover(place, [{ curveNumber, ...where }], subplot);
  place.querySelector(".hoverlayer .hovertext")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function leave(place) {
  if (!place.data) return;
  Plotly.Fx.unhover(place);
  tell(place);
}
