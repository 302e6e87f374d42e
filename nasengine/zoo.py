"""Models that others have written: timm's and torchvision's image classifiers, by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from nasengine import models
from nasengine.compact import library_model, opened
from nasengine.errors import ConfigError, told
from nasengine.names import brief

FIELD, PATH = "space.model", "space.path"


def installed(library: str) -> list[str]:
    """What the library itself says that it has for sorting images into classes, in alphabetical order."""
    if library == "timm":
        import timm

        return sorted(timm.list_models())
    import torchvision.models

    return sorted(torchvision.models.list_models(module=torchvision.models))


def built(
    library: str,
    name: str,
    *,
    classes: int,
    channels: int,
    image_size: int,
    weights: str = "none",
    path: str | Path | None = None,
) -> nn.Module:
    """A model on the CPU in eval mode, that makes logits [N, classes] of images [N, channels, S, S].

    Args:
        library: timm or torchvision.
        name: as the library spells it.
        classes: of its last layer.
        channels: of the images.
        image_size: their side in pixels.
        weights: none (random), pretrained (the library's own, downloaded once), or file.
        path: of the safetensors file that holds its state dict, for `file`. A last layer for another number of classes
            stays random, of pretrained weights too.

    Raises:
        ConfigError: if there is no such model, it takes no such images, or the weights are of another model or
            cannot be had.
    """
    if problem := models.unknown(library, name):
        raise ConfigError.at(FIELD, problem)
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
    if weights == "file":
        other = library_model(library, name, classes + 1, channels, image_size)
        _load(model, Path(path or ""), f"{name} ({library})", heads(model, other))
    if weights == "pretrained":
        _download(model, library, name, channels)
    return opened(model)


def heads(model: nn.Module, other: nn.Module) -> set[str]:
    """Names of what has another shape in the same model for another number of classes: its last layer."""
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    return {name for name, value in model.state_dict().items() if value.shape != shapes[name]}


def _download(model: nn.Module, library: str, name: str, channels: int) -> None:
    """Takes the library's trained weights for all that has the same shape there."""
    try:
        state = _timms(model, name, channels) if library == "timm" else _torchvisions(name)
    except Exception as error:  # no network, no such weights, no room: each library has words of its own
        raise ConfigError.at(
            "space.weights",
            f"the trained weights of {name} ({library}) cannot be had ({told(error)}); give a file, or none",
        ) from None
    own = model.state_dict()
    model.load_state_dict({n: v for n, v in state.items() if n in own and own[n].shape == v.shape}, strict=False)


def _timms(model: nn.Module, name: str, channels: int) -> Mapping[str, Tensor]:
    """Timm itself fits them to the number of channels; positions to the image size."""
    import timm

    wanted = {"in_chans": channels}
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size is not None:
        wanted["img_size"] = size
    return timm.create_model(name, pretrained=True, **wanted).state_dict()


def _torchvisions(name: str) -> Mapping[str, Tensor]:
    from torchvision import models as theirs

    return theirs.get_model_weights(name).DEFAULT.get_state_dict(progress=False)


def _load(model: nn.Module, file: Path, whose: str, free: set[str]) -> None:
    """Takes the weights of a file, for all but `free` ones of another shape."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        given = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError.at(
            PATH, f"the weights in {file} cannot be read ({told(error)}); give a safetensors file"
        ) from None
    expected = model.state_dict()
    for name, value in expected.items():
        if name not in given:
            raise ConfigError.at(PATH, f"the weights in {file} have no {name}; give those of {whose}")
        if given[name].shape != value.shape and name in free and given[name].shape[1:] == value.shape[1:]:
            given[name] = value
        if given[name].shape != value.shape:
            raise ConfigError.at(
                PATH,
                f"the weights in {file} do not fit {whose}: {name} is {list(given[name].shape)}, expected "
                f"{list(value.shape)}",
            )
    if unknown := sorted(given.keys() - expected.keys()):
        raise ConfigError.at(PATH, f"the weights in {file} have {brief(unknown[0])}, which {whose} has not")
    model.load_state_dict(given)


def _plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
