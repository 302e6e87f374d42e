// Image files to the bytes a network sees, and bytes to canvases, with what the browser has for it.

import { coloured, fitted, view } from "./pixels.js";
import { whole } from "./words.js";

const MOST_PIXELS = 2 ** 26;

/** Something a person can mend; its message is a sentence for them. */
export class Unreadable extends Error {}

/** The image in a file, on white, cropped to its middle and resized: size * size * channels bytes. */
export async function seen(file, size, channels) {
  const image = await decoded(file);
  try {
    if (image.width * image.height > MOST_PIXELS) {
      throw new Unreadable(`This image has more than ${whole(MOST_PIXELS)} pixels; make it smaller first.`);
    }
    const part = view(image.width, image.height, size);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [part.width, part.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, part.width, part.height);
    context.drawImage(image, -part.x, -part.y);
    return fitted(coloured(context.getImageData(0, 0, part.width, part.height).data, channels), part, size, channels);
  } finally {
    image.close();
  }
}

async function decoded(file) {
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Unreadable(`${file.name ? `'${file.name}'` : "This"} is not an image that this browser can read; take a JPEG, PNG or WebP.`);
  }
}

/** Draws size * size * channels bytes into a canvas. */
export function paint(canvas, pixels, size) {
  const channels = pixels.length / size ** 2;
  const rgba = new Uint8ClampedArray(4 * size ** 2).fill(255);
  for (let i = 0; i < size ** 2; i++) {
    for (let colour = 0; colour < 3; colour++) rgba[4 * i + colour] = pixels[i * channels + (channels === 3 ? colour : 0)];
  }
  [canvas.width, canvas.height] = [size, size];
  canvas.getContext("2d").putImageData(new ImageData(rgba, size, size), 0, 0);
}

/** What a canvas, or the present frame of a video, shows, as a PNG file. */
export function photographed(source, [width, height]) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").drawImage(source, 0, 0);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

/** A result's sheet of pictures: `side` pixels a tile, `columns` in a row. Fetched at the first look, then kept. */
export class Sheet {
  constructor(url, { side, columns }) {
    [this.url, this.side, this.columns] = [url, side, columns];
  }

  /** Draws tile number `tile` into a canvas, pixel by pixel. */
  async draw(canvas, tile) {
    this.image ??= fetch(this.url, { credentials: "same-origin" })
      .then((answer) => (answer.ok ? answer.blob() : Promise.reject(new Error(`status ${answer.status}`))))
      .then((file) => createImageBitmap(file, { colorSpaceConversion: "none" }));
    this.image.catch(() => (this.image = undefined)); // asked for again at the next look
    const [image, { side, columns }] = [await this.image, this];
    [canvas.width, canvas.height] = [side, side];
    canvas.getContext("2d").drawImage(image, -side * (tile % columns), -side * Math.floor(tile / columns));
  }
}
