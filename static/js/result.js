// The result as pictures: the network at the start and as it was found, accuracy against size, and other sizes to try on.

import { forecast } from "./forecast.js";
import { operationWord } from "./names.js";
import { Network } from "./network.js";
import { pareto } from "./pareto.js";
import { unitsOn } from "./run.js";
import { units } from "./sentences.js";
import { count, enumerated, metricUnit, percent, whole } from "./words.js";

const at = (id) => document.getElementById(id);

/** Fills what the server has left room for in the result; parts that are there already stay as they are. `wished` is told
 * the size that somebody moves to. */
export function result(model, wished) {
  const place = at("result-pictures");
  if (!place || !model.result || !model.started) return;
  if (place.dataset.shown !== String(model.result.seq)) {
    place.dataset.shown = model.result.seq;
    new Network(at("network-start")).draw(model, {});
    new Network(at("network-found")).draw(model, ending(model));
    other(model, wished);
  }
  points(model);
}

/** What the main network kept: the last commit for its target. */
function ending(model) {
  const commit = model.commits.findLast(({ target }) => target === model.started.target) ?? model.commits.at(-1);
  return { kept: commit?.kept, weights: commit?.kept_weights };
}

/** The networks that were trained, each with its file. Drawn anew with the colours of the theme. */
function points(model) {
  const place = at("pareto");
  const theme = document.documentElement.dataset.bsTheme;
  if (!place || place.dataset.theme === theme) return;
  place.dataset.theme = theme;
  const { report } = model.result;
  const metric = model.started.metric;
  const files = JSON.parse(at("result-files").textContent);
  const point = (label, network, test, colour, symbol, url) => ({
    label, size: network[metric], accuracy: test, colour, symbol, url, says: url ? "<br>click to download its weights" : "",
  });
  const known = [
    point("found", report.achieved, report.accuracy.test, "validation", "circle", files.result),
    ...(report.family ?? []).map((member) => point("of further targets", member, member.test, "operation", "circle", files[member.folder])),
    ...(report.baseline?.random ?? []).map((network) => point("random, same size", { [metric]: network[metric] ?? report.achieved[metric] }, network.test, "train", "x", null)),
  ];
  at("pareto-figure").hidden = known.length < 2; // one point is no comparison
  if (known.length > 1) pareto(place, known, metricUnit(metric));
}

/** The slider over the sizes that the engine has looked at. */
function other(model, wished) {
  const card = at("what-if");
  const networks = model.alternatives?.networks ?? [];
  card.hidden = !networks.length;
  if (!networks.length) return;
  const found = { size: model.result.report.achieved[model.started.metric], ...ending(model), isFound: true };
  const sizes = [...networks.filter(({ size }) => Math.abs(size / found.size - 1) > 0.03), found].sort((a, b) => a.size - b.size);
  const drawing = new Network(at("network-other"));
  const slider = at("what-if-size");
  slider.max = sizes.length - 1;
  slider.value = sizes.indexOf(found);
  const show = () => {
    const chosen = sizes[Number(slider.value)];
    const states = compared(model, found, chosen);
    const text = words(model, found, chosen, states);
    at("what-if-text").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    drawing.draw(model, { kept: chosen.kept, weights: chosen.isFound ? chosen.weights : null, states });
    const link = at("what-if-search");
    if (link) {
      link.hidden = Boolean(chosen.isFound);
      link.href = `${link.dataset.href}&target=${chosen.size}`;
      link.textContent = `Search with ${whole(chosen.size)} ${metricUnit(model.started.metric)} as the target`;
    }
  };
  slider.addEventListener("input", () => {
    show();
    wished(sizes[Number(slider.value)].size);
  });
  show();
}

function words(model, found, chosen, states) {
  const unit = metricUnit(model.started.metric);
  if (chosen.isFound) return `${whole(found.size)} ${unit}: the network that was found. Move the slider to other sizes.`;
  const [gone, back] = ["cut", "back"].map((state) => counted(model, states, state));
  const parts = [gone && `${gone} would go`, back && `${back} would stay or return`];
  const guess = forecast(...measured(model), chosen.size, model.data?.splits?.validation);
  const accuracy = !guess
    ? "How good it would be, this run cannot tell."
    : `Validation accuracy about ${percent(guess.middle, 0)} (${percent(guess.low, 0)} to ${percent(guess.high, 0)}), guessed from this run alone.`;
  return `${whole(chosen.size)} ${unit} (${count(chosen.size / found.size * 100)} % of the found one): ${enumerated(parts.filter(Boolean)) || `the same ${operationWord(model.started)}s and filters`}. ${accuracy}`;
}

/** [trained networks, the epochs in which the whole network was open]. */
function measured(model) {
  const { report } = model.result;
  const metric = model.started.metric;
  const trained = [
    { size: report.achieved[metric], accuracy: report.accuracy.validation },
    ...(report.family ?? []).map((member) => ({ size: member[metric], accuracy: member.validation })),
  ];
  return [trained, model.trail];
}

/** How many units are in this state, in words; empty for none. */
function counted(model, states, state) {
  const counts = { operation: 0, filter: 0 };
  for (const { name, granularity } of decided(model)) counts[granularity] += states.get(name).filter((one) => one === state).length;
  return counts.operation + counts.filter ? units(counts, model.started) : "";
}

/** States for the drawing: cut is what the found network has and this one has not, back the reverse. */
function compared(model, found, chosen) {
  return new Map(decided(model).map(({ name, units: all }) => {
    const [was, is] = [unitsOn(found.kept[name], all), unitsOn(chosen.kept[name], all)];
    return [name, Array.from(is, (bit, unit) => (bit ? (was[unit] ? "on" : "back") : was[unit] ? "cut" : "off"))];
  }));
}

const decided = (model) => model.started.choices.filter(({ granularity }) => granularity !== "weight");
