// The last hour as plots. Their numbers are in the page; without this script the figures above them tell the same.
const PHASES = ["declare", "plan", "move", "seal", "commit", "publish"];
const HUES = ["#8a6bd1", "#c0609f", "#2f6feb", "#1f9e8f", "#c28a1e", "#cf5c3a"];
const sync = { key: "ckptd" };
let plots = [];

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function plot(into, title, series, columns, unit) {
  const figure = document.createElement("figure");
  figure.className = "plot";
  const heading = document.createElement("h3");
  heading.textContent = title;
  figure.append(heading);
  into.append(figure);
  const quiet = colour("--quiet"), line = colour("--line");
  const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font: "11px system-ui" };
  const size = () => ({ width: Math.max(200, figure.clientWidth), height: 160 });
  const made = new uPlot({
    ...size(),
    cursor: { sync, drag: { x: true, y: false } },
    legend: { live: false },
    axes: [axis, { ...axis, size: 72, values: (_, values) => values.map((each) => `${each} ${unit}`) }],
    scales: { y: { range: (_, low, high) => [0, Math.max(high || 0, 1e-3) * 1.1] } },
    series: [{}, ...series],
  }, columns, figure);
  plots.push({ made, size });
}

function stroke(label, colourName, more = {}) {
  return { label, stroke: colourName.startsWith("--") ? colour(colourName) : colourName, width: 1.5, points: { show: true, size: 4 }, ...more };
}

function draw() {
  const place = document.querySelector("[data-charts]");
  for (const each of plots) each.made.destroy();
  plots = [];
  if (!place || !window.uPlot) return;
  place.querySelector(".plots")?.remove();
  const data = JSON.parse(place.dataset.charts);
  if (!data.at || data.at.length < 2) return;
  const into = document.createElement("div");
  into.className = "plots";
  into.setAttribute("aria-hidden", "true");
  place.append(into);
  // Rows in the order of time: a save that is repeated comes later than its step tells.
  const order = data.at.map((_, i) => i).sort((a, b) => data.at[a] - data.at[b]);
  const sorted = (column) => order.map((i) => column[i]);
  const at = sorted(data.at);
  plot(into, "Training stood still", [stroke("p50", "--link"), stroke("p95", "--warn")],
    [at, sorted(data.stall_p50), sorted(data.stall_p95)], "ms");
  const sums = [];
  let below = at.map(() => 0);
  for (const phase of PHASES) {
    below = sorted(data.phases[phase]).map((value, i) => Math.round((below[i] + value) * 1e4) / 1e4);
    sums.push(below);
  }
  plot(into, "Durable after, by phase",
    PHASES.map((phase, i) => stroke(phase, HUES[i], { fill: `${HUES[i]}55`, points: { show: false } })).reverse(),
    [at, ...sums.reverse()], "s");
  plot(into, "Throughput", [stroke("written", "--good")], [at, sorted(data.mb_per_s)], "MB/s");
  if (data.lag.some((each) => each !== null)) {
    plot(into, "Slowest rank behind the median", [stroke("lag", "--bad")], [at, sorted(data.lag)], "ms");
  }
  // Now that all are there, each has its place in the row.
  for (const { made, size } of plots) made.setSize(size());
}

addEventListener("resize", () => { for (const { made, size } of plots) made.setSize(size()); });
document.addEventListener("ckptd:theme", draw);
document.addEventListener("ckptd:part", (event) => { if (event.detail === "charts") draw(); });
if (document.readyState === "complete") draw(); else addEventListener("load", draw);
