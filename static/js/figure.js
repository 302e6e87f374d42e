// What all Plotly figures of the site have in common: colours of the theme, axes, letters, what a finger may do.

const COARSE = matchMedia("(pointer: coarse)").matches;

export const OPTIONS = {
  displaylogo: false, responsive: true, displayModeBar: COARSE ? false : "hover",
  modeBarButtons: [["toImage", "resetScale2d"]], doubleClick: "reset",
};

/** A colour of the style sheet (`--chart-<name>`) as the theme has it now. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--chart-${name}`).trim();
}

/** A range of an axis of accuracies with some room about them. */
export function around(accuracies) {
  return [Math.max(0, Math.min(...accuracies) - 0.04), Math.min(1.02, Math.max(...accuracies) + 0.04)];
}

/** A layout with these titles; what `more` says of x, y and the whole is laid over it. A zoom survives new data. */
export function layout(xTitle, yTitle, { x = {}, y = {}, ...more } = {}) {
  const [ink, grid] = [colour("ink"), colour("grid")];
  const axis = (title) => ({
    gridcolor: grid, linecolor: grid, zerolinecolor: grid, tickfont: { size: 11 }, automargin: true, fixedrange: COARSE,
    ...(title ? { title: { text: title, font: { size: 11 }, standoff: 4 } } : {}),
  });
  return {
    height: 300, margin: { l: 52, r: 10, t: 10, b: 38 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    hoverlabel: { bgcolor: colour("surface"), bordercolor: grid, font: { color: ink } },
    dragmode: COARSE ? false : "zoom", uirevision: "kept", showlegend: true,
    legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { size: 11 } },
    xaxis: { ...axis(xTitle), ...x }, yaxis: { ...axis(yTitle), ...y }, ...more,
  };
}
