// The page of one search: puts the feed, the run's model and the pictures together.

import { Blocks } from "./blocks.js";
import { Charts } from "./draw.js";
import { Feed } from "./feed.js";
import { figures, header } from "./header.js";
import { Inside } from "./inside.js";
import { Network } from "./network.js";
import { Notify } from "./notify.js";
import { ratedSoFar } from "./omitted.js";
import { result } from "./result.js";
import { add, emptyRun, rewind } from "./run.js";
import { swap } from "./swap.js";
import { Timeline } from "./timeline.js";
import { tip, whenPointed } from "./tip.js";
import { ago, count, duration, whole } from "./words.js";

const DRAW_EVERY = 340; // milliseconds: three times a second at most
const feed = JSON.parse(document.getElementById("feed").textContent);
const at = (id) => document.getElementById(id);

const run = emptyRun(feed.charts);
const charts = new Charts(at("charts"), feed.charts);
const timeline = new Timeline(
  { slider: at("commit"), play: at("play"), follow: at("follow"), text: at("commit-text"), ticks: at("ticks") },
  () => draw(),
);
const network = new Network(at("network"), { onPick: (_, number) => look(shown.block === number ? null : number) });
const inside = new Inside(at("inside"), { onClose: () => look(null) });
for (const place of [at("network"), at("inside")]) whenPointed(place, (unit) => tip(unit, run.model, timeline.index));
const blocks = new Blocks(at("blocks"));
const notify = new Notify(at("notify"), feed.id, document.querySelector("h1").textContent);
const paths = at("paths") && new (await import("./paths.js")).Paths(at("paths")); // no page without it pays for it
const shown = { fed: false, state: feed.state, page: feed.state.drawn, block: null, log: 0, spoken: "" };

/** Looks into a block, or away from it. */
function look(number) {
  const before = shown.block;
  shown.block = number;
  network.pick(number);
  if (number === null) {
    inside.hide();
    network.focus(before);
  }
  draw();
}

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
  at("before").hidden = !waiting || shown.state.finished || !shown.fed;
  at("before-data").hidden = !model.dataProgress;
  if (model.dataProgress) preparation(model.dataProgress);
  header(model, shown.state);
  if (shown.fed) settle();
  if (waiting) return;
  figures(model);
  timeline.show(model, !shown.state.finished);
  network.show(model, timeline.index);
  if (shown.block !== null) inside.show(model, timeline.index, shown.block);
  paths?.show(model, !shown.state.finished);
  blocks.show(model, shown.state);
  rated(ratedSoFar(model));
  charts.draw(model, shown.state.finished);
  result(model, (size) => blocks.wish(size));
  log(model);
}

/** Says in the question about an early end what it would rest on. */
function rated(text) {
  const place = document.querySelector("#stop-dialog [data-note]");
  if (place && place.textContent !== text) place.textContent = text;
}

/** What stands below drawings is seen from here on: its place is sure. */
function settle() {
  at("search").removeAttribute("data-filling");
}

function preparation({ what, done, total, unit, eta_seconds: eta }) {
  const write = unit === "bytes" ? (n) => `${count(n)}B` : whole;
  const word = {
    downloading: "Downloading the images",
    packing: "Packing the images",
    tracing: "Looking at what may be cut of the model",
    timing: "Measuring this device",
  }[what] ?? what;
  at("before-data-text").textContent =
    unit === "models"
      ? `${word}, up to ${duration(eta)}`
      : `${word}: ${write(done)}${total ? ` of ${write(total)}` : ""}${unit === "bytes" ? "" : ` ${unit}`}${eta ? `, ${duration(eta)} left` : ""}`;
  const bar = at("before-data-bar");
  if (total) bar.value = done / total;
  else bar.removeAttribute("value");
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
  Object.assign(shown, { state: frame, fed: true });
  const badge = at("state");
  badge.textContent = frame.label;
  badge.dataset.state = frame.state;
  at("sentence").textContent = frame.sentence;
  say(`${frame.label}. ${frame.sentence}`);
  refresh();
  wanted();
  notify.state(frame);
}

// What the server draws belongs to one `drawn` of the state: it is fetched until it is that of the newest.
let refreshing = false;
async function refresh() {
  if (refreshing) return;
  refreshing = true;
  for (let pause = 1000; shown.page !== shown.state.drawn && !["gone", "signed-out"].includes(document.body.dataset.link); ) {
    const drawn = shown.state.drawn;
    if (await swap(["actions", "trouble", "result", "artifacts", "tryit", "mistakes", "engine-log"])) {
      shown.page = drawn;
      draw(); // at once: an empty frame would make the page jump
    } else await new Promise((done) => setTimeout(done, (pause = Math.min(2 * pause, 60_000))));
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
  if (!["connecting", "live"].includes(status)) settle();
  clearTimeout(link.timer);
  const show = () => {
    banner.hidden = !text;
    banner.className = `banner ${tone}`;
    banner.textContent = text;
    if (status !== "signed-out") return;
    banner.append(" ", signIn());
    for (const button of document.querySelectorAll("#actions button, #sharing button")) button.disabled = true;
  };
  if (status === "reconnecting" && banner.hidden) link.timer = setTimeout(show, 900); // a blink is no news
  else show();
}

for (const time of document.querySelectorAll("time[data-ago]")) {
  const tell = () => (time.textContent = ago((Date.now() - new Date(time.dateTime)) / 1000));
  tell();
  setInterval(tell, 30_000);
}

setInterval(wanted, 30_000); // time passes
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
