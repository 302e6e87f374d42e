// How good would a network of another size be? A guess from what this run has measured itself, with how far it may be off.
//
// Between two sizes that were trained to the end: on the straight line between them (accuracy over the logarithm of the
// size). Beyond them: by the slope with which accuracy fell with the size while the search went on. Since accuracy also
// grows with training, both are fitted together: accuracy = a + b log(size) + c log(epoch), by least squares.

const FEWEST = 6; // epochs: fewer cannot tell three numbers
const FAR = 2; // times the largest or the smallest size that was measured: beyond that a slope says nothing

/**
 * {low, middle, high} of the validation accuracy at a size, or null where the run cannot tell.
 *
 * trained: [{size, accuracy}] of networks trained to the end; trail: [{size, accuracy, epoch}] of the search's epochs;
 * images: how many the accuracies were measured on.
 */
export function forecast(trained, trail, size, images) {
  const known = trained.filter(({ accuracy }) => accuracy !== null && accuracy !== undefined).sort((a, b) => a.size - b.size);
  if (!known.length) return null;
  const at = Math.log(size);
  const after = known.findIndex((one) => one.size >= size);
  if (after > 0 || known[after]?.size === size) {
    const [low, high] = [known[Math.max(0, after - 1)], known[after]];
    const share = high.size === low.size ? 0 : (at - Math.log(low.size)) / Math.log(high.size / low.size);
    return around(low.accuracy + share * (high.accuracy - low.accuracy), chance(high.accuracy, images));
  }
  const measured = [...known, ...trail].map((one) => one.size);
  const isFar = size < Math.min(...measured) / FAR || size > Math.max(...measured) * FAR;
  const slope = slopeOf(trail);
  if (isFar || !slope || slope.value <= 0) return null;
  const nearest = after === 0 ? known[0] : known.at(-1);
  const distance = at - Math.log(nearest.size);
  return around(nearest.accuracy + slope.value * distance, Math.hypot(chance(nearest.accuracy, images), 2 * slope.error * distance));
}

function around(middle, error) {
  const inside = (value) => Math.min(1, Math.max(0, value));
  return { low: inside(middle - error), middle: inside(middle), high: inside(middle + error) };
}

/** Two standard deviations of a share that was measured on so many images. */
function chance(share, images) {
  return images ? 2 * Math.sqrt((share * (1 - share)) / images) : 0;
}

/** What accuracy gains with the logarithm of the size, and the standard error of that. */
function slopeOf(trail) {
  const rows = trail.filter(({ size, accuracy }) => size > 0 && typeof accuracy === "number");
  if (rows.length < FEWEST) return null;
  const x = centred(rows.map(({ size }) => Math.log(size)));
  const t = centred(rows.map(({ epoch }) => Math.log(epoch)));
  const y = centred(rows.map(({ accuracy }) => accuracy));
  const [xx, tt, xt] = [dot(x, x), dot(t, t), dot(x, t)];
  const determinant = xx * tt - xt * xt;
  if (determinant < 1e-9 * Math.max(1e-9, xx * tt)) return null; // the size fell in step with time: not to be told apart
  const value = (dot(x, y) * tt - dot(t, y) * xt) / determinant;
  const other = (dot(t, y) * xx - dot(x, y) * xt) / determinant;
  const rest = y.map((one, index) => one - value * x[index] - other * t[index]);
  const variance = dot(rest, rest) / Math.max(1, rows.length - 3);
  return { value, error: Math.sqrt((variance * tt) / determinant) };
}

function centred(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.map((value) => value - mean);
}

const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
