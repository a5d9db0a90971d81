"use strict";
// The page of --listen: asks /api every two seconds and shows what it says. Texts are only ever set as text.

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const EVERY_MS = 2000;
const PHASES = [
  ["latestOffset", "look for rows", "--c2"], ["walCommit", "write offsets", "--c3"], ["queryPlanning", "plan", "--c4"],
  ["addBatch", "compute", "--c1"], ["commitOffsets", "commit", "--c6"], ["publish", "publish", "--c5"], ["other", "other", "--c7"],
];

// Numbers for people.
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const some = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const none = "–";
const count = (value) => (value == null ? none : whole.format(value));
const short = (value) => {
  if (value == null) return none;
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (Math.abs(value) >= size) return some.format(value / (unit === " k" ? 1e3 : size)) + unit;
  }
  return Math.abs(value) < 100 ? some.format(value) : whole.format(value);
};
const bytes = (value) => {
  if (value == null) return none;
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= size) return `${some.format(value / size)} ${unit}`;
  }
  return `${whole.format(value)} B`;
};
const took = (ms) => {
  if (ms == null) return none;
  if (ms < 0) return `-${took(-ms)}`;
  if (ms < 1) return `${some.format(ms * 1000)} µs`;
  if (ms < 1000) return `${some.format(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${some.format(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  if (s < 63072000) return `${whole.format(s / 86400)} days`;
  return `${some.format(s / 31557600)} years`;
};
const when = (iso) => (iso && !iso.startsWith("1970-01-01T00:00:00.000") ? iso.replace("T", " ").replace(/\.\d+Z$/, "") : none);

let chosen = null;
let range = "live";
let charts = null;
let timer = 0;
let asking = 0;
let opened = null;

async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(body.error || `${answer.status} ${answer.statusText}`), { status: answer.status });
  return body;
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function badge(element, state) {
  element.className = `badge ${state}`;
  set(element, state);
}

// All queries.
const COLUMNS = [
  ["Rows in per s", (q) => short(q.inputRowsPerSecond)], ["Batch", (q) => count(q.batchId)],
  ["Batch took", (q) => took(q.batchDurationMs)], ["Rows in", (q) => short(q.inputRows)], ["Rows out", (q) => short(q.outputRows)],
  ["Late", (q) => short(q.lateRows)], ["State rows", (q) => short(q.stateRows)], ["Watermark lag", (q) => took(q.watermarkLagMs)],
];
const rows = new Map();

function addRow(name) {
  const row = make("tr");
  const head = make("th");
  head.scope = "row";
  const link = make("a", "", name);
  link.href = `#/${encodeURIComponent(name)}`;
  head.append(link);
  const state = make("td", "state");
  state.append(make("span", "badge"));
  row.append(head, state);
  for (const [label] of COLUMNS) {
    const cell = make("td", "n");
    cell.dataset.label = label;
    row.append(cell);
  }
  const reason = make("tr", "reason");
  const why = make("td", "why");
  why.colSpan = COLUMNS.length + 2;
  reason.append(why);
  document.querySelector("#queries tbody").append(row, reason);
  const entry = { row, reason, why, badge: state.firstChild, cells: [...row.children].slice(2) };
  rows.set(name, entry);
  return entry;
}

function whyOf(query) {
  if (query.error) return query.error;
  const parts = [];
  if (query.state === "restarting") parts.push(query.message);
  if (query.waiting) parts.push(query.waiting);
  parts.push(...query.flaws);
  return parts.join(" · ");
}

function showAll({ version, queries }) {
  $("empty").hidden = queries.length > 0;
  $("queries").hidden = queries.length === 0;
  for (const query of queries) {
    const entry = rows.get(query.name) || addRow(query.name);
    badge(entry.badge, query.state);
    COLUMNS.forEach(([, text], index) => set(entry.cells[index], text(query)));
    const why = whyOf(query);
    entry.reason.hidden = !why;
    set(entry.why, why.length > 400 ? `${why.slice(0, 400)} …` : why);
  }
  for (const [name, { row, reason }] of rows) {
    if (queries.some((query) => query.name === name)) continue;
    row.remove();
    reason.remove();
    rows.delete(name);
  }
  const states = new Map();
  for (const query of queries) states.set(query.state, (states.get(query.state) || 0) + 1);
  const told = [...states].map(([state, number]) => `${number} ${state}`).join(", ");
  set($("counts"), [told, `version ${version}`].filter(Boolean).join(" · "));
  const failed = states.get("failed");
  document.title = `${failed ? `(${failed} failed) ` : ""}${chosen ? `${chosen} – ` : ""}Tidemill`;
}

// One query.
function tile(list, label, text) {
  let entry = [...list.children].find((child) => child.firstChild.textContent === label);
  if (!entry) {
    entry = make("div");
    entry.append(make("dt", "", label), make("dd"));
    list.append(entry);
  }
  set(entry.lastChild, text);
}

function facts(list, pairs) {
  const wanted = pairs.filter(([, text]) => text);
  if (list.dataset.shown === JSON.stringify(wanted)) return;
  list.dataset.shown = JSON.stringify(wanted);
  list.replaceChildren(...wanted.flatMap(([label, text]) => [make("dt", "", label), make("dd", "", text)]));
}

function showPlan(plan) {
  const body = document.querySelector("#plan tbody");
  const all = plan.reduce((sum, node) => sum + (node.elapsedComputeNs || 0), 0);
  if (body.children.length !== plan.length || plan.length === 0) {
    body.replaceChildren(...plan.map(() => {
      const row = make("tr");
      const share = make("td");
      const meter = make("div", "meter");
      meter.append(make("i"));
      share.append(meter);
      const operator = make("th", "op");
      operator.scope = "row";
      operator.append(make("b"), make("small"));
      row.append(operator, make("td", "n"), make("td", "n"), share);
      return row;
    }));
    if (plan.length === 0) {
      const row = make("tr");
      const cell = make("td", "", "There has been no batch yet.");
      cell.colSpan = 4;
      row.append(cell);
      body.append(row);
    }
  }
  plan.forEach((node, index) => {
    const [operator, given, time, share] = body.children[index].children;
    const colon = node.operator.indexOf(":");
    operator.style.paddingLeft = `${12 + node.depth * 18}px`;
    operator.setAttribute("aria-level", node.depth + 1);
    set(operator.firstChild, colon < 0 ? node.operator : node.operator.slice(0, colon));
    set(operator.lastChild, colon < 0 ? "" : node.operator.slice(colon + 1).trim());
    set(given, count(node.outputRows));
    set(time, node.elapsedComputeNs == null ? none : took(node.elapsedComputeNs / 1e6));
    const part = all > 0 ? (100 * (node.elapsedComputeNs || 0)) / all : 0;
    share.firstChild.firstChild.style.width = `${part}%`;
    share.setAttribute("aria-label", `${Math.round(part)} % of the time`);
  });
}

function showOne(query) {
  set($("detail-title"), query.name);
  badge($("detail-state"), query.state);
  $("stop").hidden = !query.isActive;
  $("restart").hidden = query.isActive;
  const message = query.error ? "" : [query.message, query.waiting, ...query.flaws].filter(Boolean).join(" · ");
  set($("message"), message);
  $("error").hidden = !query.error;
  set($("error").querySelector("pre"), query.error || "");
  const tiles = $("tiles");
  tile(tiles, "Rows in per second", short(query.inputRowsPerSecond));
  tile(tiles, "Processed per second", short(query.processedRowsPerSecond));
  tile(tiles, "Last batch took", took(query.batchDurationMs));
  tile(tiles, "Batch", count(query.batchId));
  tile(tiles, "Rows in", count(query.inputRows));
  tile(tiles, "Rows out", count(query.outputRows));
  tile(tiles, "Late rows", count(query.lateRows));
  tile(tiles, "State rows", count(query.stateRows));
  tile(tiles, "State memory", bytes(query.stateBytes));
  tile(tiles, "Watermark", when(query.watermark));
  tile(tiles, "Watermark lag", took(query.watermarkLagMs));
  tile(tiles, query.isActive ? "Running for" : "Ran for", took(query.runningMs));
  facts($("facts"), [
    ["From", query.sources.join(", ")], ["To", [query.target, query.format, query.location].filter(Boolean).join(" · ")],
    ["Trigger", query.trigger], ["Checkpoint", query.checkpoint], ["Restarts", String(query.restarts)], ["Id", query.id], ["Run", query.runId],
  ]);
  set($("sql"), query.sql);
  set($("explain"), query.explain);
  set($("report"), query.lastProgress ? JSON.stringify(query.lastProgress, null, 2) : "There has been no batch yet.");
  showPlan(query.plan);
  draw(query.history);
}

// Charts.
const POWERS = Array.from({ length: 50 }, (_, power) => 2 ** power);
const CHARTS = [
  { title: "Rows per second", text: short, lines: [["inputRowsPerSecond", "read", "--c1"], ["processedRowsPerSecond", "processed while computing", "--c2"]] },
  { title: "Batch duration by phase", text: took, stack: true, lines: PHASES },
  { title: "Watermark lag", text: took, lines: [["watermarkLagMs", "behind the clock", "--c4"]] },
  { title: "State rows", text: short, area: true, lines: [["stateRows", "rows", "--c1"]] },
  { title: "State memory", text: bytes, area: true, lines: [["stateBytes", "bytes", "--c2"]] },
  { title: "Late rows", text: short, bars: true, lines: [["lateRows", "rows", "--c5"]] },
];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function columns(chart, history) {
  const values = chart.lines.map(([column]) => history[column]);
  if (!chart.stack) return [history.time, ...values];
  const sums = values.map((column) => [...column]);
  for (let line = 1; line < sums.length; line++) {
    for (let at = 0; at < sums[line].length; at++) {
      if (sums[line][at] != null) sums[line][at] += sums[line - 1][at] || 0;
    }
  }
  // The highest sum is drawn first, so that those below stay visible.
  return [history.time, ...sums.reverse()];
}

function build(chart, history) {
  const figure = make("figure");
  const caption = make("figcaption");
  caption.append(make("span", "", chart.title), make("output"));
  const place = make("div");
  place.setAttribute("role", "img");
  figure.append(caption, place);
  $("charts").append(figure);
  const lines = chart.stack ? [...chart.lines].reverse() : chart.lines;
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--dim"), grid, ticks: { show: false }, font: "12px system-ui" };
  const wide = () => Math.max(200, Math.floor(figure.clientWidth - 30));
  const plot = new uPlot({
    width: wide(),
    height: 170,
    cursor: { y: false, points: { show: !chart.stack }, drag: { x: false, y: false } },
    legend: { live: true },
    scales: { x: { time: true }, y: { range: (u, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, size: 26, space: 70, values: "{HH}:{mm}" },
      { ...axis, size: 76, space: 32, incrs: chart.text === bytes ? POWERS : undefined, values: (u, splits) => splits.map(chart.text) },
    ],
    series: [
      { value: (u, at) => (at == null ? none : new Date(at * 1000).toTimeString().slice(0, 8)), label: "at" },
      ...lines.map(([, label, name]) => ({
        label,
        stroke: colour(name),
        width: chart.stack ? 0 : 2,
        fill: chart.stack || chart.bars ? colour(name) : chart.area ? `color-mix(in srgb, ${colour(name)} 18%, transparent)` : undefined,
        paths: chart.stack ? uPlot.paths.stepped({ align: -1 }) : chart.bars ? uPlot.paths.bars({ size: [0.8, 12] }) : undefined,
        points: { show: false },
        spanGaps: !chart.stack,
        value: (u, value, series, at) => chart.text(at == null ? null : raw(u, chart, series, at)),
      })),
    ],
  }, columns(chart, history), place);
  return { chart, figure, place, plot, wide, output: caption.lastChild };
}

// What a line stands for: in a stack, what it adds to the one below.
function raw(plot, chart, series, at) {
  const value = plot.data[series][at];
  if (!chart.stack || value == null || series === plot.data.length - 1) return value;
  return value - plot.data[series + 1][at];
}

function draw(history) {
  if (!charts) {
    $("charts").replaceChildren();
    charts = CHARTS.map((chart) => build(chart, history));
  }
  for (const { chart, plot, place, output } of charts) {
    plot.setData(columns(chart, history));
    const last = plot.data[1].findLast((value) => value != null);
    const most = plot.data.slice(1).flat().reduce((high, value) => Math.max(high, value || 0), 0);
    set(output, last == null ? none : chart.text(last));
    const time = range === "live" ? "5 minutes" : "hour";
    place.setAttribute("aria-label", last == null ? `${chart.title}: nothing in the last ${time}` : `${chart.title}: last ${chart.text(last)}, at most ${chart.text(most)} in the last ${time}`);
  }
}

new ResizeObserver(() => charts && charts.forEach(({ plot, wide }) => {
  if (plot.width !== wide()) plot.setSize({ width: wide(), height: 170 });
})).observe($("charts"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { charts = null; refresh(); });

// Asking.
async function refresh() {
  clearTimeout(timer);
  const mine = ++asking;
  const name = chosen;
  try {
    const [all, one] = await Promise.all([
      ask("api/queries"),
      name == null ? null : ask(`api/queries/${encodeURIComponent(name)}?range=${range}`),
    ]);
    if (mine !== asking) return;
    showAll(all);
    if (one) showOne(one);
    set($("connection"), "");
  } catch (error) {
    if (mine !== asking) return;
    if (error.status === 404) location.hash = "#/";
    else set($("connection"), "No answer from tidemill; trying again");
  }
  if (!document.hidden) timer = setTimeout(refresh, EVERY_MS);
}

async function change(what, button) {
  const path = `api/queries/${encodeURIComponent(chosen)}/${what}`;
  $("problem").hidden = true;
  button.disabled = true;
  try {
    await ask(path, { method: "POST", headers: authorization() });
  } catch (error) {
    if (error.status === 403 && (await askToken())) {
      button.disabled = false;
      return change(what, button);
    }
    if (error.status === 403) sessionStorage.removeItem("token");
    $("problem").hidden = false;
    set($("problem").querySelector("pre"), error.message);
  }
  button.disabled = false;
  await refresh();
  (($("stop").hidden ? $("restart") : $("stop"))).focus();
}

function authorization() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function askToken() {
  const dialog = $("ask");
  $("token").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    const given = dialog.returnValue === "ok" && $("token").value;
    if (given) sessionStorage.setItem("token", $("token").value);
    resolve(Boolean(given));
  }, { once: true }));
}

function route() {
  // Such as that of the link that skips to the queries.
  if (location.hash && !location.hash.startsWith("#/")) return;
  const name = decodeURIComponent(location.hash.slice(2)) || null;
  if (name === opened && name !== null) return;
  opened = name;
  chosen = name;
  charts = null;
  $("charts").replaceChildren();
  $("tiles").replaceChildren();
  $("problem").hidden = true;
  $("overview").hidden = name !== null;
  $("detail").hidden = name === null;
  if (name !== null) set($("detail-title"), name);
  scrollTo(0, 0);
  refresh();
}

$("stop").addEventListener("click", (event) => change("stop", event.currentTarget));
$("restart").addEventListener("click", (event) => change("restart", event.currentTarget));
for (const button of document.querySelectorAll(".range")) {
  button.addEventListener("click", () => {
    range = button.dataset.range;
    for (const other of document.querySelectorAll(".range")) other.setAttribute("aria-pressed", String(other === button));
    charts = null;
    refresh();
  });
}
addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => !document.hidden && refresh());
route();
