"""What a found network says of one image file, from its ONNX file and without torch.

A web server can afford it: where browsers cannot run the network themselves, it answers for them.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nasengine.pixels import square

MOST_RUNS, RUNS_WITHIN = 9, 0.2
"""How often an image is run to take the time, and for how many seconds at most."""


@dataclass(frozen=True)
class Answer:
    """What it says of an image, and of which one.

    Attributes:
        pixels: uint8 [S, S, C], as the network got them but for the normalising.
        chances: of each class, adding up to one.
        milliseconds: median of one image, of so many `runs` after a warm-up.
    """

    pixels: NDArray[np.uint8]
    chances: list[float]
    milliseconds: float
    runs: int


class Classifier:
    """The network of a result folder, on one core.

    Attributes:
        classes: name of each class, in the order of the chances.
    """

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "architecture.json").read_text())
        self.classes: list[str] = told["classes"]
        self.size: int = told["image_size"]
        self.mean, self.std = (np.array(told[name], dtype=np.float32) for name in ("mean", "std"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def seen(self, content: bytes, *, most_pixels: int | None = None) -> NDArray[np.uint8]:
        """The image in a file as training would have packed it: [S, S, C].

        Raises:
            Unreadable: saying what is wrong with the file.
        """
        channels = len(self.mean)
        pixels = square(content, self.size, most_pixels=most_pixels, grey=channels == 1)
        return np.repeat(pixels[..., None], channels, axis=2) if pixels.ndim == 2 else pixels

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[classes] of pixels [S, S, C]."""
        x = (pixels.astype(np.float32) / 255 - self.mean) / self.std
        found: NDArray[np.float32] = self.session.run(None, {"images": x.transpose(2, 0, 1)[None]})[0][0]
        return found

    def answer(self, content: bytes, *, most_pixels: int | None = None) -> Answer:
        """What it says of the image in a file.

        Raises:
            Unreadable: as `seen`.
        """
        pixels = self.seen(content, most_pixels=most_pixels)
        logits = self.logits(pixels).astype(np.float64)
        times: list[float] = []
        begun = time.perf_counter()
        while not times or (len(times) < MOST_RUNS and time.perf_counter() - begun < RUNS_WITHIN):
            started = time.perf_counter()
            self.logits(pixels)
            times.append(1000 * (time.perf_counter() - started))
        powers = np.exp(logits - logits.max())
        return Answer(pixels, [float(p) for p in powers / powers.sum()], statistics.median(times), len(times))
