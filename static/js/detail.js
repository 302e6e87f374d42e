// The page of one search: puts the feed, the run's model and the pictures together.

import { Charts } from "./draw.js";
import { Feed } from "./feed.js";
import { furtherTarget, networkName } from "./names.js";
import { Network } from "./network.js";
import { add, emptyRun, rewind } from "./run.js";
import { units } from "./sentences.js";
import { swap } from "./swap.js";
import { ago, count, duration, listed, metricUnit, percent, whole } from "./words.js";

const DRAW_EVERY = 340; // milliseconds: three times a second at most
const feed = JSON.parse(document.getElementById("feed").textContent);
const at = (id) => document.getElementById(id);

const run = emptyRun(feed.charts);
const charts = new Charts(at("charts"), feed.charts);
const network = new Network(at("network"));
const shown = { state: feed.state, page: feed.state.drawn, commit: null, log: 0, spoken: "" };

// Pacing: one animation frame, not before DRAW_EVERY since the last; hidden tabs get none and catch up when seen.
let drawn = 0;
let asked = false;
function wanted() {
  if (asked) return;
  asked = true;
  setTimeout(() => requestAnimationFrame(() => {
    asked = false;
    drawn = performance.now();
    draw();
  }), Math.max(0, DRAW_EVERY - (performance.now() - drawn)));
}
charts.onWanted(wanted);

function draw() {
  const { model } = run;
  const waiting = !model.started;
  at("live").hidden = waiting;
  at("before").hidden = !waiting || shown.state.finished;
  at("before-data").hidden = !model.dataProgress;
  if (model.dataProgress) preparation(model.dataProgress);
  progress(model);
  if (waiting) return;
  figures(model);
  timeline(model);
  network.show(model, commitShown(model));
  charts.draw(model);
  log(model);
}

function preparation({ what, done, total, unit, eta_seconds: eta }) {
  const write = unit === "bytes" ? (n) => `${count(n)}B` : whole;
  const word = { downloading: "Downloading the images", packing: "Packing the images" }[what] ?? what;
  at("before-data-text").textContent =
    `${word}: ${write(done)}${total ? ` of ${write(total)}` : ""}${unit === "images" ? " images" : ""}${eta ? `, ${duration(eta)} left` : ""}`;
  const bar = at("before-data-bar");
  if (total) bar.value = done / total;
  else bar.removeAttribute("value");
}

function progress(model) {
  const live = ["running", "stopping"].includes(shown.state.state);
  at("progress").value = model.fraction;
  at("progress-percent").textContent = model.started ? percent(model.fraction, 0) : "";
  at("stage-line").textContent = stageLine(model);
  at("eta").textContent = live && model.etaSeconds !== null ? `${duration(model.etaSeconds)} left` : "";
}

function stageLine(model) {
  const { started, stage, progress: step, retrain, phase } = model;
  if (phase === "retraining") {
    return `Training ${networkName(retrain.network)}, epoch ${retrain.epoch} of ${retrain.epochs}`;
  }
  if (phase === "result" || phase === "finished") return "Done";
  if (!started || !stage) return model.data ? "Images are ready, building the network" : "";
  const warming = step && stage.warmup_epochs && step.epoch <= firstEpoch(started, stage) + stage.warmup_epochs - 1;
  const position = `Stage ${index(started, stage) + 1} of ${started.stages.length}`;
  return `${position}${step ? `, epoch ${step.epoch} of ${started.epochs}` : ""}${warming ? " (warm-up: nothing is pruned yet)" : ""}`;
}

function firstEpoch(started, stage) {
  return 1 + started.stages.slice(0, index(started, stage)).reduce((sum, one) => sum + one.epochs, 0);
}

function index(started, stage) {
  return Math.max(0, started.stages.findIndex((one) => one.name === stage.name));
}

function figures(model) {
  const { started } = model;
  const report = model.result?.report;
  const trained = model.retrain && (furtherTarget(model.retrain.network) ?? started.target);
  const commit = (trained && model.commits.findLast((one) => one.target === trained)) ?? model.commits.at(-1);
  const size = report?.achieved?.[started.metric] ?? (trained ? commit?.size : model.progress?.size) ?? started.full_size;
  const target = (report ? started.target : trained) ?? model.stage?.target ?? started.target;
  at("figure-size").textContent = size < 1e6 ? whole(size) : count(size);
  const also = started.also?.length ? `, also ${listed(started.also)}` : "";
  at("figure-size-note").textContent = `${metricUnit(started.metric)}, target ${target < 1e6 ? whole(target) : count(target)}${also}`;
  const accuracy = report?.accuracy?.validation ?? model.retrain?.validation?.accuracy ?? model.epoch?.validation?.accuracy;
  at("figure-accuracy").textContent = percent(accuracy);
  at("figure-accuracy-note").textContent = model.retrain ? "on validation images, retrained" : "on validation images";
  const isFinal = commit && ["fit", "stage_end"].includes(commit.reason) && commit.seq > (model.epoch?.seq ?? 0);
  const kept = isFinal ? commit.totals : (model.epoch?.kept ?? commit?.totals);
  for (const level of ["operation", "filter", "weight"]) {
    const [on, all] = kept?.[level] ?? [0, 0];
    at(`figure-${level}`).textContent = all ? percent(on / all, 0) : "—";
  }
  at("figure-speed").textContent = model.progress?.images_per_second ? count(model.progress.images_per_second) : "—";
}

// The time line of commits: follows the newest until somebody moves it.
const slider = at("commit");
let playing = null;

function commitShown(model) {
  return shown.commit === null ? model.commits.length - 1 : Math.min(shown.commit, model.commits.length - 1);
}

function timeline(model) {
  const index = commitShown(model);
  slider.max = model.commits.length;
  slider.value = index + 1;
  slider.disabled = model.commits.length === 0;
  at("play").disabled = model.commits.length === 0;
  const commit = model.commits[index];
  const text = !commit
    ? "The full network, before anything is pruned"
    : `Commit ${index + 1} of ${model.commits.length}, epoch ${commit.epoch}${model.started.also?.length ? `, target ${whole(commit.target)}` : ""}: ${changes(commit)}`;
  if (at("commit-text").textContent !== text) at("commit-text").textContent = text;
  slider.setAttribute("aria-valuetext", text);
}

function changes(commit) {
  const [pruned, regrown] = [units(commit.pruned), units(commit.regrown)];
  return [pruned !== "nothing" && `${pruned} pruned`, regrown !== "nothing" && `${regrown} regrown`].filter(Boolean).join("; ") || "no change";
}

slider.addEventListener("input", () => {
  stop();
  const index = Number(slider.value) - 1;
  shown.commit = index === run.model.commits.length - 1 ? null : index;
  draw();
});

at("play").addEventListener("click", () => {
  if (playing) return stop();
  shown.commit = -1;
  playing = setInterval(() => {
    shown.commit += 1;
    if (shown.commit >= run.model.commits.length - 1) {
      shown.commit = null;
      stop();
    }
    draw();
  }, 900);
  at("play").textContent = "Pause";
  return draw();
});

function stop() {
  clearInterval(playing);
  playing = null;
  at("play").textContent = "Replay";
}

function log(model) {
  const last = model.log.at(-1)?.seq ?? 0;
  if (last === shown.log) return;
  const list = at("log");
  const atTop = list.scrollTop < 8;
  const fresh = shown.log > last || list.childElementCount === 0 ? model.log : model.log.filter((entry) => entry.seq > shown.log);
  if (fresh === model.log) list.replaceChildren();
  for (const entry of fresh) {
    const item = document.createElement("li");
    item.className = entry.tone;
    item.textContent = entry.text;
    list.prepend(item);
  }
  while (list.childElementCount > 200) list.lastElementChild.remove();
  if (atTop) list.scrollTop = 0;
  shown.log = last;
}

function state(frame) {
  shown.state = frame;
  const badge = at("state");
  badge.textContent = frame.label;
  badge.dataset.state = frame.state;
  const queue = frame.queue_position ? ` ${frame.queue_position === 1 ? "It is the next in line." : `${frame.queue_position - 1} before it in line.`}` : "";
  at("sentence").textContent = frame.sentence + queue;
  say(`${frame.label}. ${frame.sentence}${queue}`);
  refresh();
  wanted();
}

// What the server draws belongs to one `drawn` of the state: it is fetched until it is that of the newest.
let refreshing = false;
async function refresh() {
  if (refreshing) return;
  refreshing = true;
  for (let pause = 1000; shown.page !== shown.state.drawn && !["gone", "signed-out"].includes(document.body.dataset.link); ) {
    const drawn = shown.state.drawn;
    if (await swap(["actions", "trouble", "result", "artifacts", "tryit", "mistakes", "engine-log"])) shown.page = drawn;
    else await new Promise((done) => setTimeout(done, (pause = Math.min(2 * pause, 60_000))));
  }
  refreshing = false;
}

/** Speaks to screen readers, once for each new text. */
function say(text) {
  if (text === shown.spoken) return;
  shown.spoken = text;
  at("spoken").textContent = text;
}

const LINKS = {
  connecting: ["", ""],
  live: ["", ""],
  ended: ["", ""],
  reconnecting: ["wait", "Connection lost, reconnecting… Nothing will be missing here."],
  polling: ["", "There is no live connection right now, so this page asks for news every two seconds instead."],
  gone: ["bad", "This search is no longer there: it was deleted, or belongs to another account."],
  "signed-out": ["bad", "You were signed out."],
};

function signIn() {
  const made = document.createElement("a");
  made.href = `/accounts/login/?next=${encodeURIComponent(location.pathname)}`;
  made.textContent = "Sign in again to go on watching";
  return made;
}

function link(status) {
  const [tone, text] = LINKS[status];
  const banner = at("link");
  document.body.dataset.link = status;
  clearTimeout(link.timer);
  const show = () => {
    banner.hidden = !text;
    banner.className = `banner ${tone}`;
    banner.textContent = text;
    if (status === "signed-out") banner.append(" ", signIn());
  };
  if (status === "reconnecting" && banner.hidden) link.timer = setTimeout(show, 900); // a blink is no news
  else show();
}

for (const time of document.querySelectorAll("time[data-ago]")) {
  const tell = () => (time.textContent = ago((Date.now() - new Date(time.dateTime)) / 1000));
  tell();
  setInterval(tell, 30_000);
}

link("connecting");
wanted();
new Feed(feed, {
  lastSeq: () => run.lastSeq,
  events: (events) => {
    add(run, events);
    wanted();
  },
  rewind: (after) => {
    rewind(run, after);
    shown.log = Infinity; // draw the log anew
    wanted();
  },
  state,
  link,
}).start();
