"""Models that others have written: timm's and torchvision's image classifiers, by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasengine import models
from nasengine.compact import library_model, opened
from nasengine.errors import ConfigError, told
from nasengine.weights import left_over, unwrapped

FIELD = "space.model"
MOST_PARAMETERS = 250e6
"""Of a model that is looked at: the proof holds it in fp64, and a copy."""
NO_WEIGHTS = "give a file, or none"
OTHER_IMAGES = "use images as its library trained it with, or weights 'none'"
"""What helps where weights cannot be had, or are for other images."""
HUB_SECONDS = 10
"""How long the hub of timm's weights may be silent before it counts as out of reach."""


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
        ConfigError: if there is no such model, it is very large or takes no such images, or the weights are of another
            model or cannot be had.
    """
    shape = {"classes": classes, "channels": channels, "image_size": image_size}
    return started(library, name, **shape, weights=weights, path=path)[0]


def started(
    library: str, name: str, *, classes: int, channels: int, image_size: int, weights: str, path: str | Path | None
) -> tuple[nn.Module, set[str]]:
    """The same, and the names of what stayed random though weights were given: a last layer for other classes."""
    if problem := models.unknown(library, name):
        raise ConfigError.at(FIELD, problem)
    _refuse_giants(library, name, classes, channels, image_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = library_model(library, name, classes, channels, image_size).eval()
            with torch.no_grad():
                logits = model(torch.zeros(1, channels, image_size, image_size))
    except Exception as error:  # a thousand authors refuse in as many ways
        raise ConfigError.at(
            FIELD,
            f"{name} ({library}) does not take {_images(channels, image_size)} ({told(error)}); try another image size "
            "or model",
        ) from None
    if not isinstance(logits, Tensor) or logits.shape != (1, classes):
        raise ConfigError.at(
            FIELD, f"{name} ({library}) does not sort images into {classes} classes; take another model"
        )
    left: set[str] = set()
    if weights != "none":
        last = heads(model, library_model(library, name, classes + 1, channels, image_size))
        if weights == "file":
            left = _load(model, Path(path or ""), f"{name} ({library})", last)
        else:
            left = _download(model, library, name, channels, image_size, last)
    return opened(model), left


def _refuse_giants(library: str, name: str, classes: int, channels: int, image_size: int) -> None:
    """Counts without building; what cannot be counted so is built all the same."""
    try:
        shell = _on_meta(library, name, classes, channels, image_size)
    except Exception:  # it wants numbers while it is made
        return
    size = sum(parameter.numel() for parameter in shell.parameters())
    if size > MOST_PARAMETERS:
        raise ConfigError.at(
            FIELD,
            f"{name} ({library}) has {size / 1e6:,.0f} million parameters, more than the {MOST_PARAMETERS / 1e6:,.0f} "
            "million that are looked at; take a smaller model",
        )


def heads(model: nn.Module, other: nn.Module) -> set[str]:
    """Names of what has another shape in the same model for another number of classes: its last layer."""
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    return {name for name, value in model.state_dict().items() if value.shape != shapes[name]}


def _download(model: nn.Module, library: str, name: str, channels: int, image_size: int, last: set[str]) -> set[str]:
    """Takes the library's trained weights; the names of the last layer's, if they are of other classes."""
    own = model.state_dict()
    try:
        given = trained(library, name, channels, image_size)
    except Exception as error:  # no network, no such weights, no room: each library has words of its own
        raise ConfigError.at(
            "space.weights",
            f"the trained weights of {name} ({library}) cannot be had ({told(error)}); {NO_WEIGHTS}",
        ) from None
    left = {key for key, value in own.items() if key not in given or given[key].shape != value.shape}
    if strange := sorted(left - last):
        raise ConfigError.at(
            "space.weights",
            f"the trained weights of {name} ({library}) are not for {_images(channels, image_size)}: {strange[0]} is "
            f"of another shape; {OTHER_IMAGES}",
        )
    model.load_state_dict({key: value for key, value in given.items() if key in own and key not in left}, strict=False)
    return left


def trained(library: str, name: str, channels: int, image_size: int) -> Mapping[str, Tensor]:
    """The state dict that a library offers, downloaded once; timm fits it to channels and size where it can."""
    if library == "timm":
        return _from_hub(name, channels, image_size)
    from torchvision import models as theirs

    return theirs.get_model_weights(name).DEFAULT.get_state_dict(progress=False)


def _from_hub(name: str, channels: int, image_size: int) -> Mapping[str, Tensor]:
    """What timm has of a model, from here alone if nobody answers: asked for a file, its hub would try for a minute."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as silence:  # in the words of whatever it asks with
        is_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            return _of_timm(name, channels, image_size)
        except LocalEntryNotFoundError:
            raise silence from None
        finally:
            constants.HF_HUB_OFFLINE = is_offline
    return _of_timm(name, channels, image_size)


def _of_timm(name: str, channels: int, image_size: int) -> Mapping[str, Tensor]:
    import timm

    wanted: dict[str, Any] = {"pretrained": True, "in_chans": channels}
    try:
        return timm.create_model(name, **wanted, img_size=image_size).state_dict()
    except TypeError as error:  # what works at any size is not told one
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **wanted).state_dict()


def _load(model: nn.Module, file: Path, whose: str, last: set[str]) -> set[str]:
    """Takes the weights of a file; the names of the last layer's, if they are of other classes."""
    from safetensors.torch import load_file

    own = model.state_dict()
    left = left_over(file, _shapes(own), last, whose)
    given = unwrapped(load_file(file))
    for name, value in own.items():
        is_taken = name in given and name not in left
        if is_taken and bool(value.isfinite().all()) and not bool(given[name].isfinite().all()):
            raise ConfigError.at(
                "space.path", f"the weights in {file.name} are not all numbers: {name}; give those of a sound model"
            )
    model.load_state_dict({**own, **{name: value for name, value in given.items() if name not in left}})
    return left


def shapes(library: str, name: str, *, classes: int, channels: int, image_size: int) -> dict[str, Any]:
    """What a file with a model's weights has to hold: `shapes` by name, and names of its `last` layer's."""
    model, other = (_shell(library, name, n, channels, image_size) for n in (classes, classes + 1))
    return {"shapes": _shapes(model.state_dict()), "last": sorted(heads(model, other))}


def _shell(library: str, name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    """A model without numbers; one that wants some while it is made has them."""
    try:
        return _on_meta(library, name, classes, channels, image_size)
    except Exception:
        return library_model(library, name, classes, channels, image_size)


def _on_meta(library: str, name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return library_model(library, name, classes, channels, image_size)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def _images(channels: int, image_size: int) -> str:
    return f"images of {image_size} pixels and {channels} channel{'' if channels == 1 else 's'}"
