"""Models that others have written: timm's and torchvision's image classifiers, by name."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from nasengine.compact import library_model
from nasengine.errors import ConfigError, told
from nasengine.names import brief

Library = Literal["timm", "torchvision"]
LIBRARIES: tuple[Library, ...] = ("timm", "torchvision")
FIELD = "space.model"


def names(library: str) -> list[str]:
    """All models that sort images into classes, in alphabetical order.

    Raises:
        ConfigError: if there is no such library.
    """
    if library == "timm":
        import timm

        return sorted(timm.list_models())
    if library == "torchvision":
        from torchvision import models

        return sorted(models.list_models(module=models))
    raise ConfigError.at(FIELD, f"'{brief(library)}' is no library of models; use {' or '.join(LIBRARIES)}")


def built(
    library: str, name: str, *, classes: int, channels: int, image_size: int, weights: str | Path | None = None
) -> nn.Module:
    """A model on the CPU in eval mode, that makes logits [N, classes] of images [N, channels, S, S].

    Args:
        library: timm or torchvision.
        name: as the library spells it.
        classes: of its last layer.
        channels: of the images.
        image_size: their side in pixels.
        weights: a safetensors file that holds its state dict; random weights without.

    Raises:
        ConfigError: if there is no such model, it takes no such images, or the weights are of another model.
    """
    known = names(library)
    if name not in known:
        raise ConfigError.at(FIELD, _unknown(library, name, known))
    images = f"images of {image_size} pixels and {_plural(channels, 'channel')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = library_model(library, name, classes, channels, image_size).eval()
            with torch.no_grad():
                logits = model(torch.zeros(1, channels, image_size, image_size))
    except Exception as error:  # a thousand authors refuse in as many ways
        raise ConfigError.at(
            FIELD, f"{name} ({library}) does not take {images} ({told(error)}); try another image size or model"
        ) from None
    if not isinstance(logits, Tensor) or logits.shape != (1, classes):
        raise ConfigError.at(
            FIELD, f"{name} ({library}) does not sort images into {classes} classes; take another model"
        )
    if weights is not None:
        _load(model, Path(weights), f"{name} ({library})")
    return model


def _unknown(library: str, name: str, known: list[str]) -> str:
    if library == "torchvision":
        from torchvision import models

        if name in models.list_models():
            return f"{name} (torchvision) does not sort images into classes; take one that does, such as resnet18"
    near = difflib.get_close_matches(name, known, n=3)
    mend = f"did you mean {' or '.join(near)}?" if near else f"{library} has {len(known):,} others, such as resnet18"
    return f"{library} has no model '{brief(name)}'; {mend}"


def _load(model: nn.Module, file: Path, whose: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError.at(
            FIELD, f"the weights in {file} cannot be read ({told(error)}); give a safetensors file"
        ) from None
    expected = model.state_dict()
    for name, value in expected.items():
        if name not in given:
            raise ConfigError.at(FIELD, f"the weights in {file} have no {name}; give those of {whose}")
        if given[name].shape != value.shape:
            raise ConfigError.at(
                FIELD,
                f"the weights in {file} do not fit {whose}: {name} is {list(given[name].shape)}, expected "
                f"{list(value.shape)}",
            )
    if unknown := sorted(given.keys() - expected.keys()):
        raise ConfigError.at(FIELD, f"the weights in {file} have {brief(unknown[0])}, which {whose} has not")
    model.load_state_dict(given)


def _plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
