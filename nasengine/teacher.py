"""A frozen network with cut points: what blocks of another one are to reproduce.

Source: DNA (arXiv 1911.13053), whose teacher runs in training mode, so that what an image looks like to it depends on
its batch and its statistics move. Here it is in evaluation mode, and nothing of it ever changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasengine import zoo
from nasengine.compact import Network
from nasengine.config import MOST_SHOWN
from nasengine.errors import ConfigError

LARGEST_IMAGE = 256
"""Side to which images are enlarged at most, for a teacher whose maps shall be as fine as the blocks'."""
NEVER_SAID = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's pixels: what a library's model expects unless it says otherwise."""
PARTS = ("made", "state")
"""Of what `stored` gives."""
PLACES = {"space.model": "teacher_model", "space.weights": "teacher_weights", "space.path": "teacher_path"}
"""Field of a model that is searched -> that of a model that teaches."""
HINTS = {
    zoo.NO_WEIGHTS: "give a file, or use own as the teacher",
    zoo.OTHER_IMAGES: "give strategy.teacher_image_size as its library trained it with, or a file",
}
"""What helps a model that is searched -> what helps one that teaches."""
LARGER = "give a larger image size (strategy.teacher_image_size), or another model"


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Maps of a trained network, one for each border between blocks.

    Attributes:
        network: in evaluation mode; none of its parameters asks for a gradient.
        taps: names of the modules whose outputs are the maps, in the order in which they are computed.
        widths: channels of each map.
        sides: to which each map is brought, in pixels: those of the blocks' own.
        shown: normalised images as the blocks see them -> as the teacher sees them.
        made: plain values that it can be made of again, but for its weights.
    """

    network: nn.Module
    taps: tuple[str, ...]
    widths: tuple[int, ...]
    sides: tuple[int, ...]
    shown: Callable[[Tensor], Tensor]
    made: Mapping[str, Any]

    @torch.no_grad()
    def maps(self, images: Tensor, first: int, last: int) -> list[Tensor]:
        """Maps [N, C, S, S] of the borders from `first` to `last`; it is run no further than that."""
        wanted = slice(first, last + 1)
        found = _outputs(self.network, self.taps[wanted], self.shown(images), goes_on=False)
        return [_brought(found[name], side) for name, side in zip(self.taps[wanted], self.sides[wanted], strict=True)]


class _Reached(Exception):
    """All that was asked for is there."""


def _outputs(network: nn.Module, names: Sequence[str], images: Tensor, *, goes_on: bool) -> dict[str, Tensor]:
    """Module -> what it made, of modules that are called once."""
    found: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def note(name: str) -> Callable[..., None]:
        def noted(module: nn.Module, inputs: Any, output: Any) -> None:
            calls[name] += 1
            found[name] = output.clone() if isinstance(output, Tensor) else output  # a rectifier may work in place
            if len(found) == len(names) and not goes_on:
                raise _Reached

        return noted

    hooks = [network.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        network(images)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return {name: output for name, output in found.items() if calls[name] == 1}


def _brought(map_: Tensor, side: int) -> Tensor:
    return map_ if map_.shape[-1] == side else F.adaptive_avg_pool2d(map_, side)


def _frozen(network: nn.Module) -> nn.Module:
    """In the memory format in which it was trained, so that it answers to the bit what it answered then."""
    return network.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)


def own(network: nn.Module, borders: Sequence[str], sides: Sequence[int]) -> Teacher:
    """A compact network of the space itself, or of a wider one; `borders` are values that it makes."""
    layers = {layer["name"]: layer for layer in network.architecture["layers"]}

    def width(name: str) -> int:
        while "channels" not in layers[name]:
            name = layers[name]["inputs"][0]
        return int(layers[name]["channels"])

    return Teacher(
        network=_frozen(network), taps=tuple(f"layers.{border}" for border in borders),
        widths=tuple(map(width, borders)), sides=tuple(sides), shown=_unchanged,
        made={"architecture": dict(network.architecture), "borders": list(borders), "sides": list(sides)},
    )  # fmt: skip


def _unchanged(images: Tensor) -> Tensor:
    return images


def stored(teacher: Teacher) -> dict[str, Any]:
    """What `restored` needs."""
    return {"made": dict(teacher.made), "state": teacher.network.state_dict()}


def restored(stored_: Mapping[str, Any]) -> Teacher:
    """The very same teacher; needs neither its file nor a network."""
    made = dict(stored_["made"])
    if "architecture" in made:
        network = Network(made["architecture"])
        network.load_state_dict(stored_["state"])
        return own(network, made["borders"], made["sides"])
    network = _built(made["library"], made["model"], made["classes"], made["size"], "none", None)
    network.load_state_dict(stored_["state"])
    return _cut(network, made)


def _cut(network: nn.Module, made: Mapping[str, Any]) -> Teacher:
    return Teacher(
        network=_frozen(network), taps=tuple(made["taps"]), widths=tuple(made["widths"]), sides=tuple(made["sides"]),
        shown=_Shown(made["size"], *made["statistics"]), made=made,
    )  # fmt: skip


def of_library(
    library: str, model: str, *, weights: str, path: str | None, image_size: int, shown_size: int | None,
    sides: Sequence[int], mean: Sequence[float], std: Sequence[float], classes: int,
) -> Teacher:  # fmt: skip
    """A model of timm or torchvision with trained weights, cut where its maps are as fine as the blocks'.

    Args:
        library: timm or torchvision.
        model: as the library spells it.
        weights: pretrained or file, see `zoo.built`.
        path: of the file.
        image_size: side of the images in pixels.
        shown_size: to which they are enlarged for it; the least that does, if not given.
        sides: of each block's last map.
        mean: by which images are normalised, a number a channel.
        std: the same.
        classes: of the images; its last layer plays no part.

    Raises:
        ConfigError: there is no such model or weights, or it has no maps that go with the blocks'.
    """
    sizes = [shown_size] if shown_size else [image_size * times for times in (1, 2, 4, 8, 16)]
    problem = None
    for size in [size for size in sizes if size and (shown_size or size <= max(LARGEST_IMAGE, image_size))]:
        try:
            network = _built(library, model, classes, size, "none", None)
        except ConfigError as error:
            problem = problem or error
            continue
        taps = _taps(network, size, sides)
        if isinstance(taps, str):
            field = "teacher_image_size" if shown_size and taps.endswith(LARGER) else "teacher_model"
            problem = ConfigError.at(f"strategy.{field}", f"{model} ({library}) {taps}")
            continue
        network = _built(library, model, classes, size, weights, path)
        names, widths = taps
        return _cut(
            network,
            {
                "library": library,
                "model": model,
                "classes": classes,
                "size": size,
                "taps": list(names),
                "widths": list(widths),
                "sides": list(sides),
                "statistics": [list(mean), list(std), *map(list, _expected(network))],
            },
        )
    raise problem or ConfigError.at("strategy.teacher_image_size", f"images of {image_size} pixels are too large")


def _built(library: str, model: str, classes: int, size: int, weights: str, path: str | None) -> nn.Module:
    try:
        return zoo.built(library, model, classes=classes, channels=3, image_size=size, weights=weights, path=path)
    except ConfigError as error:
        raise ConfigError(
            [(f"strategy.{PLACES[field]}", _for_a_teacher(sentence)) for field, sentence in error.problems]
        ) from None


def _for_a_teacher(sentence: str) -> str:
    for hint, own in HINTS.items():
        sentence = sentence.replace(hint, own)
    return sentence


def _taps(network: nn.Module, size: int, sides: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]] | str:
    """For each border a module whose map is at least as fine, and its channels; or what is wrong and what helps.

    Of the modules with maps of one side those are taken that divide them evenly, the last one always. What stands in a
    block that halves its map, before it is halved, is none of them: what follows reads its shortcut, too.
    """
    names = [name for name, _ in network.named_modules() if name]
    with torch.no_grad():
        made = _outputs(network, names, torch.zeros(1, 3, size, size), goes_on=True)
    all_maps = {name: out for name, out in made.items() if isinstance(out, Tensor) and _is_map(out)}
    maps = {
        name: out
        for name, out in all_maps.items()
        if (trunk := _trunk(network, name)) in all_maps and all_maps[trunk].shape[-1] == out.shape[-1]
    }
    there = sorted({int(out.shape[-1]) for out in maps.values()}, reverse=True)
    if not there:
        return "has no maps of the image, so there is nothing that blocks could reproduce; take another model"
    found: list[str] = []
    for side in sides:
        fine = [own for own in there if own >= side]
        if not fine:
            return (
                f"sees images of {size} pixels as maps of {there[0]}x{there[0]} at the finest, and block "
                f"{len(found) + 1} ends with {side}x{side}; {LARGER if size < MOST_SHOWN else 'take another model'}"
            )
        places = [number for number, other in enumerate(sides) if min(o for o in there if o >= other) == min(fine)]
        modules = [name for name, out in maps.items() if out.shape[-1] == min(fine)]
        if len(modules) < len(places):
            there_are = f"{len(modules)} map{'s' * (len(modules) > 1)} of {min(fine)}x{min(fine)}"
            return f"has {there_are}, and {len(places)} blocks each need one; take another model, or fewer block ends"
        rank = places.index(len(found)) + 1
        found.append(modules[len(modules) * rank // len(places) - 1])
    return tuple(found), tuple(int(maps[name].shape[1]) for name in found)


def _trunk(network: nn.Module, name: str) -> str:
    """The part of the model that a module stands in: what the model itself, or a row of such parts, calls by turns."""
    parts, found = name.split("."), ""
    for depth in range(len(parts)):
        if depth and not isinstance(network.get_submodule(found), nn.Sequential):
            break
        found = ".".join(parts[: depth + 1])
    return found


def _is_map(out: Tensor) -> bool:
    return out.ndim == 4 and out.shape[2] == out.shape[3] > 1


def _expected(network: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation by which its own images were normalised."""
    said: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    return said.get("mean", NEVER_SAID[0]), said.get("std", NEVER_SAID[1])


class _Shown:
    """Images [N, C, S, S], normalised by one mean and deviation, in another size and normalised by another."""

    def __init__(self, size: int, *statistics: Sequence[float]) -> None:
        self.size = size
        self.mean, self.std, self.its_mean, self.its_std = (torch.tensor(part).view(1, -1, 1, 1) for part in statistics)

    def __call__(self, images: Tensor) -> Tensor:
        mean, std, its_mean, its_std = (part.to(images) for part in (self.mean, self.std, self.its_mean, self.its_std))
        pixels = (images * std + mean).expand(-1, 3, -1, -1)
        if pixels.shape[-1] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bilinear", align_corners=False)
        return (pixels - its_mean) / its_std
