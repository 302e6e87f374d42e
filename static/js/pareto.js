// Accuracy against size: each network a point. A point with an address leads there.

import { colour } from "./draw.js";
import { percent, whole } from "./words.js";

/**
 * Draws into `place`. points: {label, size, accuracy, colour (a name of the style sheet), symbol, url, says}; `says` is
 * added to what is told of a point.
 */
export async function pareto(place, points, unit) {
  const ink = colour("ink");
  const grid = colour("grid");
  const axis = { gridcolor: grid, linecolor: grid, zeroline: false, automargin: true, tickfont: { size: 11 }, fixedrange: true };
  const groups = Map.groupBy(points, ({ label }) => label);
  const traces = [...groups].map(([label, members]) => ({
    type: "scatter", mode: "markers", name: label,
    x: members.map(({ size }) => size), y: members.map(({ accuracy }) => accuracy),
    marker: { color: colour(members[0].colour), size: members[0].symbol === "circle" ? 11 : 9, symbol: members[0].symbol ?? "circle" },
    customdata: members.map(({ says }) => says ?? ""),
    hovertemplate: `%{y:.1%}, %{x:,} ${unit}%{customdata}<extra>${label}</extra>`,
  }));
  const [lowest, highest] = [Math.min, Math.max].map((end) => end(...points.map(({ accuracy }) => accuracy)));
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", `Accuracy against size. ${points.map(({ label, size, accuracy }) => `${label}: ${percent(accuracy)} with ${whole(size)} ${unit}`).join("; ")}.`);
  await window.Plotly.react(place, traces, {
    height: 280, margin: { l: 52, r: 10, t: 10, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink }, hovermode: "closest", dragmode: false,
    hoverlabel: { bgcolor: colour("surface"), bordercolor: grid, font: { color: ink } },
    legend: { orientation: "h", x: 0, y: -0.25, yanchor: "top", font: { size: 11 } }, showlegend: true,
    xaxis: { ...axis, title: { text: unit, font: { size: 11 }, standoff: 4 }, rangemode: "tozero", tickformat: "~s" },
    yaxis: { ...axis, tickformat: ".0%", range: [Math.max(0, lowest - 0.04), Math.min(1.02, highest + 0.04)] },
  }, { displaylogo: false, responsive: true, displayModeBar: false });
  place.removeAllListeners?.("plotly_click");
  place.on("plotly_click", ({ points: [point] }) => {
    const url = [...groups.values()][point.curveNumber][point.pointNumber].url;
    if (url) location.assign(url);
  });
}
