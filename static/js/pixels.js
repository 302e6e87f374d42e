// An image as the network sees it: the engine's own way from any size to a small square, in whole numbers as Pillow
// counts them (nasengine/pixels.py), so that a network is asked here about the very pixels that it was trained on.
// Pure functions; a test compares them with Pillow, byte for byte.

const GAP = 3; // an image more than so many times too large is averaged by whole blocks first
const BITS = 22; // of a weight behind the point

/**
 * Which part of an image is needed for its largest centred square: {x, y, width, height}, by how much it is averaged in
 * blocks first (1: not at all), where the square lies in what is then left: [left, top, right, bottom], and whether its
 * columns are resized before its rows, as Pillow does with tall images (each rounds).
 */
export function view(width, height, size) {
  const side = Math.min(width, height);
  const [left, top] = [(width - side) / 2, (height - side) / 2];
  const factor = Math.max(1, Math.trunc(side / size / GAP));
  const around = factor > 1 ? (0.5 * side) / size : side / size + 1; // what lies beyond the edge counts there, too
  const [x, y] = [Math.max(0, Math.trunc(left - around)), Math.max(0, Math.trunc(top - around))];
  const part = [Math.min(width, Math.ceil(left + side + around)) - x, Math.min(height, Math.ceil(top + side + around)) - y];
  const [wide, tall] = factor > 1 ? part.map((length) => Math.ceil(length / factor)) : [width, height];
  return {
    x, y, factor,
    width: part[0],
    height: part[1],
    box: [left - x, top - y, left + side - x, top + side - y].map((edge) => edge / factor),
    columnsFirst: tall > size && tall - size > 2 * (wide - size),
  };
}

/** RGBA bytes as 1 (grey) or 3 channels, still side by side for each pixel. */
export function coloured(rgba, channels) {
  const out = new Uint8Array((rgba.length / 4) * channels);
  for (let i = 0, o = 0; i < rgba.length; i += 4) {
    const [r, g, b] = [rgba[i], rgba[i + 1], rgba[i + 2]];
    if (channels === 1) out[o++] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    else [out[o++], out[o++], out[o++]] = [r, g, b];
  }
  return out;
}

/** The part of an image that `view` named, as size * size * channels bytes. */
export function fitted(pixels, { width, height, factor, box, columnsFirst }, size, channels) {
  const whole = { pixels, width, height, channels };
  const [left, top, right, bottom] = box;
  const rest = factor > 1 ? averaged(whole, factor) : whole;
  if (columnsFirst) return resized(turned(resized(turned(rest), top, bottom, size)), left, right, size).pixels;
  return turned(resized(turned(resized(rest, left, right, size)), top, bottom, size)).pixels;
}

/** Mean of each block of factor x factor pixels; what is left over at the right and the bottom makes smaller blocks. */
function averaged({ pixels, width, height, channels }, factor) {
  const [columns, rows] = [Math.ceil(width / factor), Math.ceil(height / factor)];
  const out = new Uint8Array(columns * rows * channels);
  for (let row = 0, o = 0; row < rows; row++) {
    const [first, end] = [row * factor, Math.min(height, (row + 1) * factor)];
    for (let column = 0; column < columns; column++) {
      const [from, to] = [column * factor, Math.min(width, (column + 1) * factor)];
      const n = (end - first) * (to - from);
      const share = Math.floor(Math.fround(2 ** 24 / n));
      for (let channel = 0; channel < channels; channel++) {
        let sum = n >> 1;
        for (let y = first; y < end; y++) {
          for (let x = from; x < to; x++) sum += pixels[(y * width + x) * channels + channel];
        }
        out[o++] = Math.floor((sum * share) / 2 ** 24);
      }
    }
  }
  return { pixels: out, width: columns, height: rows, channels };
}

/** Each row resized to `size` pixels, from what lies between `from` and `to`. */
function resized({ pixels, width, height, channels }, from, to, size) {
  const out = new Uint8Array(size * height * channels);
  tents(width, Math.fround(from), Math.fround(to), size).forEach(({ first, weights }, column) => {
    for (let row = 0; row < height; row++) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (BITS - 1);
        for (let i = 0; i < weights.length; i++) sum += pixels[(row * width + first + i) * channels + channel] * weights[i];
        out[(row * size + column) * channels + channel] = Math.min(255, Math.max(0, sum >> BITS));
      }
    }
  });
  return { pixels: out, width: size, height, channels };
}

/** Rows as columns. */
function turned({ pixels, width, height, channels }) {
  const out = new Uint8Array(pixels.length);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      for (let channel = 0; channel < channels; channel++) {
        out[(column * height + row) * channels + channel] = pixels[(row * width + column) * channels + channel];
      }
    }
  }
  return { pixels: out, width: height, height: width, channels };
}

/** For each of `size` new pixels the old ones that it is mixed of: the first, and their weights, a tent over its middle. */
function tents(length, from, to, size) {
  const scale = Math.fround(to - from) / size;
  const reach = Math.max(1, scale);
  return Array.from({ length: size }, (_, i) => {
    const middle = from + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - reach + 0.5));
    const end = Math.min(length, Math.trunc(middle + reach + 0.5));
    const heights = Array.from({ length: end - first }, (_, k) => Math.max(0, 1 - Math.abs((k + first - middle + 0.5) / reach)));
    const sum = heights.reduce((total, height) => total + height, 0);
    return { first, weights: heights.map((height) => Math.trunc(0.5 + (height / sum) * 2 ** BITS)) };
  });
}

/** Bytes in pixel order as the network's input, channel by channel: (value / 255 - mean) / std. */
export function normalised(pixels, mean, std) {
  const [channels, area] = [mean.length, pixels.length / mean.length];
  const out = new Float32Array(pixels.length);
  for (let channel = 0; channel < channels; channel++) {
    for (let i = 0; i < area; i++) out[channel * area + i] = (pixels[i * channels + channel] / 255 - mean[channel]) / std[channel];
  }
  return out;
}

/** Logits as chances that add up to one. */
export function softmax(logits) {
  const highest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  const powers = Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** The `n` likeliest as [number of the class, chance], the likeliest first. */
export function likeliest(chances, n = 5) {
  return [...chances.entries()].sort(([i, a], [k, b]) => b - a || i - k).slice(0, n);
}
