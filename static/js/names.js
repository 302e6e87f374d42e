// What are the parts of a network called? The engine's names in words for people, who count from one.

import { metricUnit, plural, whole } from "./words.js";

const CANDIDATES = {
  skip: "skip connection", skip_connect: "skip connection", sep_conv_3x3: "separable convolution 3×3",
  sep_conv_5x5: "separable convolution 5×5", dil_conv_3x3: "dilated convolution 3×3", dil_conv_5x5: "dilated convolution 5×5",
  avg_pool_3x3: "average pooling 3×3", max_pool_3x3: "max pooling 3×3",
};

/** What a unit of an operation choice is: in a library's model a block that may be left out. */
export function operationWord(started) {
  return started?.space === "imported" ? "block" : "operation";
}

/** "cell 0" -> "cell 1", "layer 0" -> "layer 1". */
export function blockName(name) {
  const found = /^(cell|layer) (\d+)$/.exec(name);
  return found ? `${found[1]} ${Number(found[2]) + 1}` : name;
}

/** s0 and s1 are a cell's inputs, n0, n1 ... its nodes; width0 and so on that of a chain's layers up to a reduction. */
export function stateName(name) {
  const found = /^([sn])(\d+)$/.exec(name);
  return found ? `${found[1] === "s" ? "in" : "n"}${Number(found[2]) + 1}` : name.replace(/^(width)\d+$/, "$1");
}

/** What a candidate of an operation choice is called, with the connection that it stands on. */
export function candidate(choice, label) {
  const inverted = /^mbconv_(\d+)x\d+_e(\d+)$/.exec(label);
  if (inverted) return `inverted bottleneck ${inverted[1]}×${inverted[1]} (${inverted[2]} times wider inside)`;
  const attention = /^attention_h(\d+)$/.exec(label);
  if (attention) return `attention of all positions to all (${plural(Number(attention[1]), "head")})`;
  const words = label.split(" ");
  const operation = words.pop();
  const name = CANDIDATES[operation] ?? operation;
  if (!words.length) return name;
  return `${name} (${stateName(words.join(" "))} → ${stateName(choice.replace(/_ops$/, "").split("_").at(-1))})`;
}

/** What the names of an operation's own widths and convolutions begin with. */
export function prefixOf(choice, label) {
  return `${choice.replace(/_ops$/, "")}_${label.replaceAll(" ", "_")}_`;
}

const PARTS = {
  dw1: "first per-channel part", pw1: "first mixing part", dw: "per-channel part", pw: "mixing part", conv: "1×1 convolution",
  expand: "widening part", project: "narrowing part",
  query_conv: "queries", key_conv: "keys", value_conv: "values", join: "part that joins the heads",
};

const WIDTHS = { heads: "heads of", places: "channels of each head of" };

/** "dw1_weights" -> "first per-channel part": a convolution of an operation. */
export function partName(rest) {
  const part = rest.replace(/_weights$/, "");
  return PARTS[part] ?? part;
}

/** Whose filters a width within an operation counts: "inside ...", of an attention its heads or the channels of each. */
export function widthName({ name, part }) {
  return `${WIDTHS[part] ?? "inside"} ${name}`;
}

/** What a stage is called: "on to 29891 params" -> "down to 29891 parameters". */
export function stageWords(name) {
  const found = /^on to (.+) (params|macs|latency_ms)$/.exec(name);
  return found ? `down to ${found[1]} ${metricUnit(found[2])}` : name;
}

/** "teacher 2" -> 2: which of the teachers whose maps blocks learn; 0 for any other network. */
export const generation = (network) => Number(/^teacher (\d+)$/.exec(network ?? "")?.[1] ?? 0);

/** "block 2, teacher 3" -> {block: 1, teacher: 3}: what a stage that rates a block is about; null for other stages. */
export function turn(stage) {
  const found = /^block (\d+)(?:, teacher (\d+))?$/.exec(stage ?? "");
  return found && { block: Number(found[1]) - 1, teacher: Number(found[2] ?? 1) };
}

/** Who is trained: "found", "at 12000" for a further target, "random 1" to compare with. */
export function networkName(network) {
  const target = furtherTarget(network);
  if (network === "found") return "the found network";
  if (network === "teacher") return "the teacher (the whole space)"; // of what is found
  return target === null ? `a network to compare with (${network})` : `the network for the target ${whole(target)}`;
}

/** How many teachers of blocks follow one another. */
export function generations(started) {
  return Math.max(1, ...(started?.stages ?? []).map(({ name }) => turn(name)?.teacher ?? 1));
}

/** Who teaches the blocks: "teacher 1", or "teacher 2" of the next generation; the only one has no number. */
export function teacherName(network, started) {
  return generation(network) === 1 && generations(started) === 1 ? "the teacher of the blocks" : `${network} of the blocks`;
}

/** Any of them beside the lines of a chart; nothing for the found network. */
export function lineName(network, started) {
  if (generation(network)) return teacherName(network, started).replace(/^the /, "");
  const target = furtherTarget(network);
  return network === "found" ? "" : target === null ? network : `target ${whole(target)}`;
}

/** The further target that a network or a folder belongs to: "at 12000" or "family/12000" -> 12000, "at 0.25" (ms) -> 0.25; else null. */
export function furtherTarget(name) {
  const found = /^(?:at |family\/)(\d+(?:\.\d+)?)$/.exec(name ?? "");
  return found ? Number(found[1]) : null;
}
