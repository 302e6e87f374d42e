// Several searches side by side: their lines, their networks by size, and the pictures of their networks.

import { around, colour, layout, OPTIONS } from "./figure.js";
import { Network } from "./network.js";
import { add, emptyRun } from "./run.js";
import { percent, whole } from "./words.js";

const drawn = JSON.parse(document.getElementById("drawn").textContent);
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down"];
const LONGEST = 40;

const lineColour = (place) => colour(`line-${place + 1}`);
const label = (place) => {
  const { name } = drawn.searches[place];
  return escaped(`${place + 1} · ${name.length > LONGEST ? `${name.slice(0, LONGEST)}…` : name}`);
};

/** Plotly reads some tags in its texts; names are not to be read so. */
function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function ways(place) {
  const traces = drawn.ways.flatMap(({ searching, training }, number) => {
    const joined = searching.length && training.length ? [searching.at(-1), ...training] : training;
    return [[searching, "solid", !!searching.length], [joined, "dot", !searching.length]].filter(([points]) => points.length).map(([points, dash, named]) => ({
      type: "scatter", mode: points.length > 1 ? "lines" : "markers", name: label(number), legendgroup: String(number), showlegend: named,
      x: points.map(([x]) => x), y: points.map(([, y]) => y), line: { color: lineColour(number), width: 2, dash },
      marker: { color: lineColour(number), symbol: SYMBOLS[number], size: 7 },
      hovertemplate: `epoch %{x}: %{y:.1%}<extra>${label(number)}</extra>`,
    }));
  });
  window.Plotly.react(place, traces, layout("epoch", "validation accuracy", { height: 340, x: { rangemode: "tozero", zeroline: false, showgrid: false }, y: { tickformat: ".0%" } }), OPTIONS);
}

function pareto(place) {
  const front = drawn.members.filter((member) => member.is_best);
  const joined = {
    type: "scatter", mode: "lines", x: front.map((one) => one.params), y: front.map((one) => one.accuracy), name: "best for their size",
    line: { color: colour("quiet"), width: 1.5, dash: "dash", shape: "hv" }, hoverinfo: "skip", showlegend: front.length > 1,
  };
  const traces = drawn.searches.map((search, number) => {
    const members = drawn.members.filter((member) => member.place === number);
    return {
      type: "scatter", mode: "markers", name: label(number), x: members.map((one) => one.params), y: members.map((one) => one.accuracy),
      marker: { color: lineColour(number), symbol: SYMBOLS[number], size: 11 }, customdata: members.map(() => search.url),
      text: members.map((one) => `${whole(one.params)} parameters, ${percent(one.accuracy)}`),
      hovertemplate: `%{text}<extra>${label(number)}</extra>`,
    };
  }).filter((trace) => trace.x.length);
  window.Plotly.react(place, [joined, ...traces], layout("parameters", "test accuracy", { height: 340, hovermode: "closest", x: { tickformat: "~s", showgrid: false }, y: { tickformat: ".1%", range: around(drawn.members.map((one) => one.accuracy)) } }), OPTIONS);
}

function draw() {
  for (const [id, show] of [["ways", ways], ["pareto", pareto]]) {
    const place = document.getElementById(id);
    if (place) show(place);
  }
}

function networks() {
  for (const place of document.querySelectorAll("[data-network]")) {
    const events = drawn.pictures[place.dataset.network];
    if (!events.some((event) => event.kind === "search_started")) continue;
    const run = emptyRun([]);
    add(run, events);
    place.replaceChildren();
    const last = run.model.commits.at(-1);
    new Network(place).draw(run.model, { kept: last?.kept, weights: last?.kept_weights });
  }
}

addEventListener("DOMContentLoaded", start, { once: true });
if (document.readyState !== "loading" && window.Plotly) start();

function start() {
  if (start.done) return;
  start.done = true;
  draw();
  networks();
  document.getElementById("pareto")?.on("plotly_click", ({ points }) => points[0].customdata && location.assign(points[0].customdata));
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
}
