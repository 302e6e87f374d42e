// Accuracy against size: each network a point. A point with an address leads there.

import { around, colour, layout, OPTIONS } from "./figure.js";
import { percent, whole } from "./words.js";

/**
 * Draws into `place`. points: {label, size, accuracy, colour (a name of the style sheet), symbol, url, says}; `says` is
 * added to what is told of a point.
 */
export function pareto(place, points, unit) {
  const groups = Map.groupBy(points, ({ label }) => label);
  const traces = [...groups].map(([label, members]) => ({
    type: "scatter", mode: "markers", name: label,
    x: members.map(({ size }) => size), y: members.map(({ accuracy }) => accuracy),
    marker: { color: colour(members[0].colour), size: members[0].symbol === "circle" ? 11 : 9, symbol: members[0].symbol ?? "circle" },
    customdata: members.map(({ says }) => says ?? ""),
    hovertemplate: `%{y:.1%}, %{x:,} ${unit}%{customdata}<extra>${label}</extra>`,
  }));
  place.setAttribute("role", "group"); // no image: Plotly has buttons in it
  place.setAttribute("aria-label", `Accuracy against size. ${points.map(({ label, size, accuracy }) => `${label}: ${percent(accuracy)} with ${whole(size)} ${unit}`).join("; ")}.`);
  window.Plotly.react(place, traces, layout(unit, null, {
    height: 280, hovermode: "closest",
    x: { rangemode: "tozero", tickformat: unit === "ms" ? "" : "~s", zeroline: false },
    y: { tickformat: ".0%", range: around(points.map(({ accuracy }) => accuracy)), zeroline: false },
  }), OPTIONS);
  place.removeAllListeners?.("plotly_click");
  place.on("plotly_click", ({ points: [point] }) => {
    const url = [...groups.values()][point.curveNumber][point.pointNumber].url;
    if (url) location.assign(url);
  });
}
