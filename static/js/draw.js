// The charts: one Plotly figure for each entry of the table, drawn from the model's lines.
//
// Redraws only what changed and can be seen, at most three times a second (the caller paces it), with a bounded number
// of points. SVG traces only: browsers allow too few WebGL contexts for a page of charts.

import { colour, layout, OPTIONS } from "./figure.js";
import { count, percent, whole } from "./words.js";

const MOST_POINTS = 500;
const MOST_ROWS = 60;
const TEACHERS = [["dot", "circle"], ["dash", "diamond"], ["dashdot", "square"], ["longdash", "triangle-up"], ["longdashdot", "x"]]; // in turn
const REASONS = { cadence: "regular commit", stage_end: "end of stage", regrow: "regrowth", fit: "exact fit" };

/** Creates the figures inside `place`. */
export class Charts {
  #figures = [];
  #colours = new Map();

  constructor(place, table) {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) this.#figures.find((figure) => figure.plot === entry.target).visible = entry.isIntersecting;
      this.#wanted?.();
    }, { rootMargin: "200px" });
    for (const chart of table) {
      const figure = document.createElement("figure");
      figure.className = "chart card-quiet";
      figure.innerHTML = `<figcaption><h3></h3><p></p></figcaption><div class="plot" role="group"></div>
        <details class="numbers"><summary>As a table</summary><div class="table-scroll" tabindex="0" role="region"></div></details>`;
      figure.querySelector("h3").textContent = chart.title;
      figure.querySelector("p").textContent = chart.sentence;
      const plot = figure.querySelector(".plot");
      plot.id = `chart-${chart.id}`;
      plot.setAttribute("aria-label", description(chart, []));
      place.append(figure);
      const table = figure.querySelector(".table-scroll");
      table.setAttribute("aria-label", `${chart.title}: the numbers`);
      const entry = { chart, plot, table, visible: false, open: false };
      this.#figures.push(entry);
      figure.querySelector("details").addEventListener("toggle", (event) => {
        entry.open = event.target.open;
        this.#stale.add(chart.id);
        this.#wanted?.();
      });
      seen.observe(plot);
    }
    new MutationObserver(() => {
      this.#colours.clear();
      this.#themeChanged = true;
      this.#wanted?.();
    }).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
  }

  #wanted = null;
  #stale = new Set(); // charts to draw for another reason than new events
  #themeChanged = false;
  #isOver = false;

  /** Calls `wanted` when a redraw is needed for another reason than new events. */
  onWanted(wanted) {
    this.#wanted = wanted;
  }

  /** Draws what is out of date and in sight. Clears the marks it acted on in `model.changed`. `isOver`: nothing more will come. */
  draw(model, isOver = ["finished", "failed"].includes(model.phase)) {
    if (this.#themeChanged || isOver !== this.#isOver) {
      this.#isOver = isOver;
      for (const { chart } of this.#figures) model.changed.add(chart.id);
      this.#themeChanged = false;
    }
    for (const id of this.#stale) model.changed.add(id);
    this.#stale.clear();
    for (const { chart, plot, table, open, visible } of this.#figures) {
      if (!(visible || open) || !model.changed.has(chart.id)) continue;
      model.changed.delete(chart.id);
      if (open) table.replaceChildren(numbers(chart, model.traces[chart.id]));
      const traces = this.#traces(chart, model);
      plot.setAttribute("aria-label", description(chart, traces));
      window.Plotly.react(plot, traces, this.#layout(chart, model, traces), OPTIONS);
    }
  }

  #traces(chart, model) {
    const lines = [...model.traces[chart.id].values()];
    const right = Math.max(1, ...lines.filter((line) => line.series.at !== "everywhere").flatMap((line) => line.x.at(-1) ?? 0));
    const single = lines.every((line) => line.x.length < 2 || line.series.at === "everywhere");
    return lines.map((line) => {
      const teacher = teacherOf(line);
      const colour = this.#colour((teacher && line.series.teacher_colour) ?? line.series.colour);
      if (chart.kind === "bars") return this.#bars(chart, line, colour, model);
      const level = line.series.at === "everywhere";
      const [dash, symbol] = TEACHERS[(Number(/^teacher (\d+)/.exec(teacher)?.[1] ?? 1) - 1) % TEACHERS.length];
      const beside = !teacher && line.label !== line.series.label; // a network to compare with, or of a further target: named on hover alone
      const name = lineWords(line);
      const [x, y] = level ? [[0, right], [line.y.at(-1), line.y.at(-1)]] : decimated(line.x, line.y, MOST_POINTS);
      return {
        type: "scatter", mode: line.series.points ? "markers" : single && !level ? "lines+markers" : "lines", name, x, y,
        line: { color: colour, width: beside ? 1 : line.series.dash ? 1.5 : 2, dash: teacher ? dash : (line.series.dash ?? "solid") },
        opacity: beside ? 0.6 : 1, showlegend: !beside,
        marker: { color: colour, size: 6, symbol: teacher ? symbol : "circle" },
        hovertemplate: `%{y:${hoverFormat(chart.unit)}}<extra>${name}</extra>`,
      };
    });
  }

  #bars(chart, line, colour, model) {
    const grow = line.series.sign !== -1;
    const word = grow ? "regrown" : "pruned";
    return {
      type: "bar", name: line.label, x: line.x, y: line.y, legendgroup: line.label, showlegend: !grow, offsetgroup: line.label,
      marker: grow ? { color: colour, line: { width: 0 } } : { color: colour, opacity: 0.55 },
      customdata: line.x.map((n, index) => {
        const commit = model.commits[n - 1];
        return `${whole(line.count[index])} ${line.label} ${word} (${percent(Math.abs(line.y[index]))})<br>epoch ${commit.epoch}, ${REASONS[commit.reason] ?? commit.reason}`;
      }),
      hovertemplate: "%{customdata}<extra></extra>",
    };
  }

  #layout(chart, model, traces) {
    const bars = chart.kind === "bars";
    const { length } = model.commits;
    if (!traces.some((trace) => trace.y.length)) return empty(this.#isOver, this.#colour("quiet"));
    const marks = bars ? [] : model.boundaries.filter(({ x }) => traces.some((trace) => (trace.x.at(-1) ?? 0) >= x));
    return layout(chart.x_label, null, {
      height: 270,
      hovermode: bars ? "closest" : "x unified",
      barmode: "group",
      bargap: 0.25,
      x: {
        rangemode: "tozero", zeroline: false, showgrid: false, hoverformat: ".3~r",
        ...(bars ? { tickformat: "d", range: [0.4, Math.max(4.6, length + 0.6)], dtick: length < 14 ? 1 : undefined } : {}),
      },
      y: {
        zeroline: bars, zerolinecolor: this.#colour("ink"), tickformat: { percent: ".0%", size: model.started?.metric === "latency_ms" ? "" : "~s" }[chart.unit] ?? "",
        rangemode: chart.unit === "size" ? "tozero" : "normal",
      },
      shapes: marks.map(({ x }) => ({
        type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: this.#colour("grid"), width: 1.5, dash: "dot" },
      })),
      annotations: marks.map(({ x, label }) => ({
        x, yref: "paper", y: 1, yanchor: "top", xanchor: "left", text: label, showarrow: false, font: { size: 10, color: this.#colour("quiet") },
      })),
    });
  }

  #colour(name) {
    if (!this.#colours.has(name)) this.#colours.set(name, colour(name));
    return this.#colours.get(name);
  }
}

/** Words in the place of axes that nothing is known of. */
function empty(isOver, colour) {
  const text = isOver ? "Nothing was measured" : "Nothing yet";
  const words = { text, xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false, font: { size: 13, color: colour } };
  return layout(null, null, { height: 270, showlegend: false, x: { visible: false }, y: { visible: false }, annotations: [words] });
}

/** At most `most` points: the smallest and largest of each bucket, so that no spike is lost. */
export function decimated(x, y, most) {
  if (x.length <= most) return [x.slice(), y.slice()];
  const keep = [0];
  const buckets = Math.floor((most - 2) / 2);
  for (let bucket = 0; bucket < buckets; bucket += 1) {
    const [from, to] = [bucket, bucket + 1].map((place) => 1 + Math.floor((place * (x.length - 2)) / buckets));
    let low = from;
    let high = from;
    for (let index = from; index < to; index += 1) {
      if (y[index] < y[low]) low = index;
      if (y[index] > y[high]) high = index;
    }
    keep.push(...new Set([Math.min(low, high), Math.max(low, high)]));
  }
  keep.push(x.length - 1);
  return [keep.map((index) => x[index]), keep.map((index) => y[index])];
}

/** Whose line it is if it is a teacher's: "teacher", or "teacher 2 of the blocks"; else null. */
function teacherOf({ label, series }) {
  const network = label.slice(series.label.length + 2);
  return /^teacher\b/.test(network) ? network : null;
}

/** What a line is called: a teacher's "teacher, validation", since what it learns is no retraining. */
function lineWords(line) {
  const teacher = teacherOf(line);
  return teacher ? `${teacher}, ${line.series.label.split(", ").at(-1)}` : line.label;
}

function hoverFormat(unit) {
  return { percent: ".1%", size: ",.0f" }[unit] ?? ".4~f";
}

/** The chart's lines as a table: a row for each place on the axis, at most MOST_ROWS of them. */
function numbers(chart, traces) {
  const lines = [...traces.values()].map((line) => {
    const [x, y] = line.series.at === "everywhere" ? [[], []] : decimated(line.x, line.y, MOST_ROWS);
    return { label: chart.kind === "bars" ? `${line.label} ${line.series.sign === -1 ? "pruned" : "regrown"}` : lineWords(line), at: new Map(x.map((place, index) => [place, y[index]])) };
  }).filter(({ at }) => at.size);
  const places = [...new Set(lines.flatMap(({ at }) => [...at.keys()]))].sort((a, b) => a - b);
  const write = writer(chart.unit);
  const cell = (tag, text, scope) => Object.assign(document.createElement(tag), { textContent: text, ...(scope ? { scope } : {}) });
  const row = (...cells) => {
    const made = document.createElement("tr");
    made.append(...cells);
    return made;
  };
  const table = document.createElement("table");
  table.createTHead().append(row(cell("th", chart.x_label, "col"), ...lines.map(({ label }) => cell("th", label, "col"))));
  table.createTBody().append(...places.map((place) =>
    row(cell("th", String(Math.round(100 * place) / 100), "row"), ...lines.map(({ at }) => cell("td", at.has(place) ? write(Math.abs(at.get(place))) : "")))));
  return table;
}

function writer(unit) {
  return { percent: percent, size: whole }[unit] ?? ((value) => String(Number(value.toPrecision(3))));
}

/** What a screen reader hears instead of the picture: the latest value of each line. */
function description(chart, traces) {
  const write = chart.unit === "size" ? (n) => (Number.isInteger(n) ? count(n) : whole(n)) : writer(chart.unit);
  const latest = traces.filter((trace) => trace.y.length).map((trace) => `${trace.name} ${write(trace.y.at(-1))}`);
  return `${chart.title}. ${latest.length ? `Latest: ${latest.join(", ")}.` : "No values yet."}`;
}
