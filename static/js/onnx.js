// Runs a found network in this browser: onnxruntime compiled to WebAssembly, fetched at the first use, one thread.

import { seen } from "./picture.js";
import { normalised, softmax } from "./pixels.js";

const MOST_RUNS = 15;
const RUNS_WITHIN = 400; // milliseconds

let runtime = null;

/** Something that did not come: another time it may. */
export class Unfetched extends Error {}

/** The runtime, fetched once; `onBytes(so far, of)` follows it, `of` being 0 where the server does not say. */
function loaded({ script, binary }, onBytes) {
  runtime ??= Promise.all([module(script), content(binary, onBytes)]).then(([ort, wasm]) => {
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: wasm });
    ort.env.logLevel = "error";
    return ort;
  });
  runtime.catch(() => (runtime = null));
  return runtime;
}

function module(url) {
  return import(url).catch((error) => {
    throw error instanceof TypeError ? new Unfetched(`${url}: ${error.message}`) : error; // so browsers say it
  });
}

function content(url, onBytes) {
  return read(url, onBytes).catch((error) => {
    throw new Unfetched(`${url}: ${error.message}`);
  });
}

async function read(url, onBytes = () => {}) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const [total, reader, parts] = [Number(answer.headers.get("Content-Length")), answer.body.getReader(), []];
  let bytes = 0;
  for (let part; !(part = await reader.read()).done; onBytes(bytes, total)) {
    parts.push(part.value);
    bytes += part.value.length;
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** A network in this browser. */
export class Local {
  /**
   * @param assets where the runtime is: {script, binary}.
   * @param folder address that the names of the network's files are appended to.
   */
  static async open(assets, folder, onBytes) {
    const [ort, model, architecture] = await Promise.all([
      loaded(assets, onBytes), content(`${folder}model.onnx`), content(`${folder}architecture.json`),
    ]);
    const told = JSON.parse(new TextDecoder().decode(architecture));
    return new Local(ort, await ort.InferenceSession.create(model, { executionProviders: ["wasm"] }), told);
  }

  constructor(ort, session, { image_size: size, mean, std, classes }) {
    Object.assign(this, { ort, session, size, mean, std, classes });
  }

  /** What it says of an image file: {classes, chances, pixels, size, milliseconds, runs}. */
  async ask(file) {
    const pixels = await seen(file, this.size, this.mean.length);
    const logits = await this.logits(pixels); // a warm-up, too
    const times = [];
    for (const begun = performance.now(); times.length < MOST_RUNS && (!times.length || performance.now() - begun < RUNS_WITHIN); ) {
      const start = performance.now();
      await this.logits(pixels);
      times.push(performance.now() - start);
    }
    const milliseconds = times.sort((a, b) => a - b)[times.length >> 1];
    return { classes: this.classes, chances: softmax(logits), pixels, size: this.size, milliseconds, runs: times.length };
  }

  async logits(pixels) {
    const images = new this.ort.Tensor("float32", normalised(pixels, this.mean, this.std), [1, this.mean.length, this.size, this.size]);
    return (await this.session.run({ images })).logits.data;
  }
}
