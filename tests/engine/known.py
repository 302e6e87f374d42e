"""Small models of timm and torchvision that several test files share, looked at once, without another process."""

from __future__ import annotations

import copy
from functools import cache

import torch

from nasengine import coupling, device, proof, survey, zoo
from nasengine.borrowed import Origin
from nasengine.coupling import Coupling
from nasengine.depth import runs
from nasengine.multiply_adds import counted
from nasengine.survey import Survey

torch.set_num_threads(1)

SIZE, CLASSES = 32, 5
MODELS = {
    "residual": ("timm", "test_resnet"),
    "depthwise with squeeze-excite": ("timm", "test_efficientnet"),
    "layer norms": ("timm", "test_convnext"),
    "layer norms in two dimensions": ("timm", "test_efficientnet_ln"),
    "attention": ("timm", "test_vit"),
    "concatenation, dropout": ("torchvision", "squeezenet1_0"),
}


@cache
def origin(which: str) -> Origin:
    """Of a model with random weights and statistics, looked at in this very process."""
    library, name = MODELS[which]
    with device.seeded(0):
        model = zoo.built(library, name, classes=CLASSES, channels=3, image_size=SIZE)
    shape = (1, 3, SIZE, SIZE)
    found: Coupling = coupling._found(copy.deepcopy(model), shape, float("inf"), lambda _: None)
    proof.randomised(model, shape, torch.Generator().manual_seed(1))
    depth, whole = runs(model, torch.zeros(shape)), counted(model, torch.zeros(shape))
    plan = survey.planned(model, torch.zeros(shape), found.groups, depth, whole)
    header = {"library": library, "model": name, "outputs": CLASSES, "channels": 3}
    return Origin(header=header, model=model, survey=Survey(plan, found, depth, {}))
