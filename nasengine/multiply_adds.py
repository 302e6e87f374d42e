"""Parameters and multiply-adds of any module, counted on one forward pass.

Everything that multiplies matrices counts, also where no layer stands for it, such as attention: calls are seen, not
modules. Biases, norms and activations are not multiply-adds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Count:
    """What a module costs.

    Attributes:
        params: numbers that are learned.
        macs: multiply-adds for one image.
        by_layer: multiply-adds of each layer; what multiplies no layer's weight goes to the module that does it.
    """

    params: int
    macs: int
    by_layer: Mapping[str, int]


def counted(model: nn.Module, example: Tensor) -> Count:
    """Counts on the example, a batch of one image; the model is as before afterwards."""
    calls = _Calls(model)
    hooks = [hook for name, module in model.named_modules() for hook in _announced(module, name, calls.running)]
    training = model.training
    try:
        with torch.no_grad(), calls:
            model.eval()(example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    params = sum(parameter.numel() for parameter in model.parameters())
    return Count(params, calls.macs.total(), dict(calls.macs))


def _announced(module: nn.Module, name: str, running: list[str]) -> Sequence[Any]:
    def leaves(*_: Any) -> None:
        running.pop()

    enters = module.register_forward_pre_hook(lambda *_: running.append(name))
    return enters, module.register_forward_hook(leaves, always_call=True)


class _Calls(TorchFunctionMode):
    """Sees each call of a torch function while it is on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.running: list[str] = []
        self.macs: Counter[str] = Counter()
        self.owners = {id(parameter): name.rpartition(".")[0] for name, parameter in model.named_parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in COUNTS:
            macs, weight = COUNTS[func](made, *args, **(kwargs or {}))
            self.macs[self.owners.get(id(weight), self.running[-1] if self.running else "")] += macs
        return made


def _convolution(made: Tensor, given: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[int, Any]:
    return made.numel() * weight[0].numel(), weight


def _transposed(made: Tensor, given: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[int, Any]:
    return given.numel() * weight[0].numel(), weight


def _linear(made: Tensor, given: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[int, Any]:
    return made.numel() * weight.shape[-1], weight


def _product(made: Tensor, given: Tensor, other: Tensor, *_: Any, **__: Any) -> tuple[int, Any]:
    return made.numel() * given.shape[-1], other


def _added_product(made: Tensor, added: Tensor, given: Tensor, other: Tensor, *_: Any, **__: Any) -> tuple[int, Any]:
    return made.numel() * given.shape[-1], other


def _attended(made: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[int, Any]:
    pairs = query[..., 0].numel() * key.shape[-2]
    return pairs * (query.shape[-1] + value.shape[-1]), None


def _summed(made: Tensor, equation: str, *operands: Any, **__: Any) -> tuple[int, Any]:
    """Of two operands: every combination of their letters is one multiply-add."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    if len(tensors) != 2:
        return 0, None
    given = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {
        letter: size
        for letters, x in zip(given, tensors, strict=True)
        for letter, size in zip(letters, x.shape, strict=True)
    }
    return math.prod(sizes.values()), tensors[1]


def _multi_head(made: Any, query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *rest: Any, **__: Any):
    """Projections of all three and of the result, and both products of attention; [L, N, E] or [L, E]."""
    batch = query.shape[1] if query.ndim == 3 else 1
    asks, answers = query.shape[0], key.shape[0]
    projected = asks * width * query.shape[-1] + answers * width * (key.shape[-1] + value.shape[-1])
    return batch * (projected + 2 * asks * answers * width + asks * width * width), rest[0]


COUNTS: dict[Any, Callable[..., tuple[int, Any]]] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), _transposed),
    F.linear: _linear,
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.mm, Tensor.mm), _product
    ),
    **dict.fromkeys((torch.addmm, torch.baddbmm, Tensor.addmm, Tensor.baddbmm), _added_product),
    F.scaled_dot_product_attention: _attended,
    torch.einsum: _summed,
    F.multi_head_attention_forward: _multi_head,
}
"""Function -> its multiply-adds and the weight it multiplies."""
