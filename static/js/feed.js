// How do events arrive? Over a socket; when that is cut, again with the last number; when it is blocked, by asking.
//
// Knows nothing of what events mean. `handlers`: lastSeq() -> number, events(list), rewind(seq), state(frame),
// link(status) with status one of connecting, live, reconnecting, polling, gone, signed-out, ended.

const POLL_EVERY = 2000;
const SOCKET_AGAIN_EVERY = 30000;
const SILENCE = 45000;
const TRIES_BEFORE_POLLING = 2;

export class Feed {
  #urls;
  #handlers;
  #socket = null;
  #failures = 0;
  #timer = null;
  #lastTry = 0;
  #heard = 0;
  #finished = false;
  #rewinds = 0;
  #closed = false;

  constructor(urls, handlers) {
    this.#urls = urls;
    this.#handlers = handlers;
    document.addEventListener("visibilitychange", () => document.hidden || this.#wake());
    addEventListener("online", () => this.#wake());
    addEventListener("pagehide", () => this.#socket?.close());
    addEventListener("pageshow", (event) => event.persisted && this.#wake());
  }

  start() {
    this.#handlers.link("connecting");
    this.#connect();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#lastTry = Date.now();
    const url = new URL(this.#urls.socket, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    this.#place(url);
    const socket = new WebSocket(url);
    this.#socket = socket;
    let heard = false;
    socket.onopen = () => {
      this.#heard = Date.now();
      this.#handlers.link("live");
    };
    socket.onmessage = (message) => {
      heard = true; // a socket that opens and says nothing has failed, too
      this.#failures = 0;
      this.#heard = Date.now();
      this.#frame(JSON.parse(message.data));
    };
    socket.onclose = (close) => {
      if (socket !== this.#socket) return; // replaced meanwhile
      this.#socket = null;
      if (close.code === 4404 || close.code === 4401) return this.#end(close.code === 4404 ? "gone" : "signed-out");
      if (this.#finished) return this.#end("ended");
      if (!heard) this.#failures += 1;
      if (this.#failures >= TRIES_BEFORE_POLLING) return this.#poll();
      this.#handlers.link("reconnecting");
      this.#timer = setTimeout(() => this.#connect(), 500 * 2 ** this.#failures + 300 * Math.random());
    };
  }

  async #poll() {
    clearTimeout(this.#timer);
    try {
      const url = new URL(this.#urls.events, location.href);
      this.#place(url);
      const answer = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin", cache: "no-store" });
      if (answer.status === 404) return this.#end("gone");
      if (answer.redirected || answer.status === 401 || answer.status === 403) return this.#end("signed-out");
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const page = await answer.json();
      if (page.rewind !== undefined && page.rewind !== null) this.#handlers.rewind(page.rewind);
      this.#handlers.events(page.events);
      this.#frame({ type: "state", ...page.state });
      if (page.more) return this.#poll();
      if (this.#finished) return this.#end("ended");
      this.#handlers.link("polling");
    } catch {
      this.#handlers.link("reconnecting");
    }
    const socketAgain = Date.now() - this.#lastTry > SOCKET_AGAIN_EVERY;
    this.#timer = setTimeout(() => (socketAgain ? this.#connect() : this.#poll()), POLL_EVERY);
  }

  /** Where we are: the last event, and of how many restarts we know. */
  #place(url) {
    url.searchParams.set("after", this.#handlers.lastSeq());
    url.searchParams.set("rewinds", this.#rewinds);
  }

  #frame(frame) {
    if (frame.type === "events") this.#handlers.events(frame.events);
    if (frame.type === "rewind") this.#handlers.rewind(frame.after);
    if (frame.type === "state") {
      this.#finished = frame.finished;
      this.#rewinds = frame.rewinds ?? 0;
      this.#handlers.state(frame);
    }
  }

  /** Back from sleep or from no network: a silent socket is taken for dead. */
  #wake() {
    if (this.#closed) return;
    if (this.#socket?.readyState === WebSocket.OPEN && Date.now() - this.#heard < SILENCE) return;
    const old = this.#socket;
    this.#socket = null;
    old?.close();
    this.#connect();
  }

  #end(status) {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#handlers.link(status);
  }
}
