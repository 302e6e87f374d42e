// The head of a search's page: how far it is, in which stage, how long it still takes, and its figures.

import { element } from "./elements.js";
import { furtherTarget, generation, networkName, stageWords, teacherName, turn } from "./names.js";
import { omitted, untaught } from "./omitted.js";
import { isBlockwise } from "./ratings.js";
import { etaRange } from "./run.js";
import { ago, amount, count, duration, listed, metricUnit, percent, plural, span, whole } from "./words.js";

const at = (id) => document.getElementById(id);

/** state: the frame of the feed, with `state`, `attempt`, `started_at`, `finished_at`. */
export function header(model, state) {
  const live = ["running", "stopping"].includes(state.state);
  at("progress").value = model.fraction;
  at("progress-percent").textContent = model.started ? percent(model.fraction, 0) : "";
  tell("stage-line", stageLine(model, live));
  const left = live ? etaRange(model) : null;
  tell("eta", left ? `${span(...left)} left in all` : "");
  steps(model, state);
  facts(model, state);
}

/** The figures of the search so far, or of its result. */
export function figures(model) {
  const { started } = model;
  const retrain = model.retrain?.network === "teacher" ? null : model.retrain; // its figures are nobody's result
  const report = model.result?.report;
  const trained = retrain && (furtherTarget(retrain.network) ?? started.target);
  const commit = (trained && model.commits.findLast((one) => one.target === trained)) ?? model.commits.at(-1);
  const isFit = commit && ["fit", "stage_end"].includes(commit.reason);
  const stays = trained || (isFit && commit.seq > (model.progress?.seq ?? 0)); // what is off at other times may come back
  const size = report?.achieved?.[started.metric] ?? (stays ? commit?.size : model.progress?.size) ?? started.full_size;
  const now = isBlockwise(model) ? ", the largest network" : " on now"; // blocks are put together at the end
  const unit = `${metricUnit(started.metric)}${report || stays ? "" : now}`;
  const isEarly = !report && !trained && model.stage && model.stage.blocks < started.blocks.length;
  const target = (report ? started.target : trained) || (model.stage?.target ?? started.target);
  at("figure-size").textContent = amount(size);
  const others = (started.also ?? []).filter((one) => one !== target);
  const also = others.length ? `, also ${listed(others)}` : "";
  at("figure-size-note").textContent = isEarly
    ? `${unit} of the open blocks; this stage aims at ${amount(target)}, the search at ${amount(started.target)}${also}`
    : `${unit}, target ${amount(target)}${also}`;
  const accuracy = report?.accuracy?.validation ?? retrain?.validation?.accuracy ?? model.epoch?.validation?.accuracy;
  at("figure-accuracy").textContent = percent(accuracy);
  const isApart = !retrain && !report && model.epoch?.validation.accuracy === null; // blocks that learn one by one
  at("figure-accuracy-note").textContent = isApart
    ? "once the blocks are one network"
    : retrain ? "on validation images, retrained" : "on validation images";
  const isFinal = isFit && commit.seq > (model.epoch?.seq ?? 0);
  const kept = isFinal ? commit.totals : (model.epoch?.kept ?? commit?.totals);
  for (const level of ["operation", "filter", "weight"]) {
    const [on, all] = (level === "weight" && (report || trained) ? running(model, commit) : kept?.[level]) ?? [0, 0];
    at(`figure-${level}`).textContent = all ? percent(on / all, 0) : "—";
  }
  at("figure-speed").textContent = model.progress?.images_per_second ? count(model.progress.images_per_second) : "—";
}

/** [kept, all] weights of a network that is to be handed out: those in operations and filters that are on. */
function running(model, commit) {
  const all = model.started.choices.filter(({ granularity }) => granularity === "weight");
  const sum = (count) => all.reduce((total, choice) => total + count(choice), 0);
  return commit && [sum(({ name, units }) => commit.kept_weights[name] ?? units), sum(({ units }) => units)];
}

function stageLine(model, live) {
  const { started, stage, progress: step, retrain, phase, rating } = model;
  if (phase === "teacher") return `Training ${teacherName(model.teacher.network, started)}, epoch ${model.teacher.epoch} of ${model.teacher.epochs}`;
  if (phase === "retraining") return `Training ${networkName(retrain.network)}, epoch ${retrain.epoch} of ${retrain.epochs}`;
  if (phase === "result" || phase === "finished") return "Done";
  if (!started || !stage) return model.data ? "Images are ready, building the network" : "";
  const number = index(started, stage);
  const left = live && rating && rating.eta_seconds !== null ? `, rated in ${duration(rating.eta_seconds)}` : "";
  if (rating) return `Stage ${number + 1} of ${started.stages.length}, rating its block: ${whole(rating.done)} of ${plural(rating.total, "candidate")}${left}`;
  const first = 1 + started.stages.slice(0, number).reduce((sum, one) => sum + one.epochs, 0);
  const warming = step && stage.warmup_epochs && step.epoch <= first + stage.warmup_epochs - 1;
  return `Stage ${number + 1} of ${started.stages.length}${step ? `, epoch ${step.epoch} of ${started.epochs}` : ""}${warming ? " (warm-up: nothing is pruned yet)" : ""}`;
}

function index(started, stage) {
  return Math.max(0, started.stages.findIndex((one) => one.name === stage.name));
}

/** Images, each stage, training, result: what is over, what goes on, what is to come. */
function steps(model, { state, finished }) {
  const { started, phase } = model;
  const stages = started?.stages ?? [];
  const before = model.hasFirstTeacher ? ["images", "teacher"] : ["images"];
  const names = [...before, ...(stages.length ? stages.map(({ name }) => stageWords(name)) : ["search"]), "training", "result"];
  const current = { waiting: 0, data: 0, teacher: 1, search: before.length + (model.stage && started ? index(started, model.stage) : 0), retraining: names.length - 2 };
  if (model.stage) current.teacher = before.length + taughtNext(model); // of a later generation
  const where = phase === "failed" ? model.endedIn : phase;
  const now = ["result", "finished"].includes(where) ? names.length : current[where];
  const list = at("steps");
  const missing = names.map((name, number) => (number < now ? missed(model, name, number - before.length) : ""));
  if (list.childElementCount !== names.length) list.replaceChildren(...names.map(() => document.createElement("li")));
  [...list.children].forEach((item, number) => {
    const why = missing[number] && `, ${missing[number]}`;
    if (item.textContent !== `${names[number]}${why}`) item.replaceChildren(names[number], ...(why ? [element("span", "visually-hidden", why)] : []));
    item.title = missing[number];
    const tone = missing[number] ? "missed" : number < now ? "over" : number > now ? "ahead" : finished ? "ended" : state === "running" || state === "stopping" ? "now" : "held";
    if (item.className !== tone) item.className = tone;
    if (number === now && now < names.length) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

/** Why a step that lies behind is not over; empty where it is. `stage` counts from the first stage. */
function missed(model, name, stage) {
  if (stage < 0) return name === "teacher" ? untaught(model) : "";
  if (model.started?.stages[stage]) return omitted(model, stage);
  return name === "training" && model.result?.report.ended_early?.includes("retraining") ? "cut short" : "";
}

/** The first stage of the teacher that is trained: before it is said to begin, or after. */
function taughtNext({ started, stage, teacher }) {
  const wanted = generation(teacher?.network);
  const place = started.stages.findIndex(({ name }) => wanted > 1 && turn(name)?.teacher === wanted);
  return place < 0 ? index(started, stage) : place;
}

function facts(model, { attempt, started_at: began, finished_at: ended }) {
  const elapsed = began ? ((ended ? new Date(ended) : new Date()) - new Date(began)) / 1000 : null;
  const parts = [
    model.started && `on ${model.started.device}`,
    elapsed !== null && (ended ? `${duration(elapsed)} from start to end` : `began ${ago(elapsed)}`),
    attempt > 1 && `attempt ${attempt}`,
  ];
  tell("facts", parts.filter(Boolean).join(" · "));
}

function tell(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}
