"""Small models in which channels are coupled in all the ways that people think of; importable by other processes."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, **settings: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **settings),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Net(nn.Module):
    """A stem of 8 channels, a body that keeps them, a head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.head = nn.Linear(width, 5)

    def body(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean(dim=(2, 3)))


class Residual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(8, 6), conv(6, 8)

    def body(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Dense(Net):
    def __init__(self) -> None:
        super().__init__(width=15)
        self.first, self.second = conv(8, 4), conv(12, 3)

    def body(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.first(x)], dim=1)
        return torch.cat([x, self.second(x)], dim=1)


class Squeezed(Net):
    """A depthwise convolution with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.depthwise = conv(8, 12, 1), conv(12, 12, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.down = conv(12, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.up(x))
        return self.down(x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True))))))


class Grouped(Net):
    """Many narrow groups, few wide ones."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = conv(8, 16, groups=4), conv(16, 12, groups=2)
        self.last = conv(12, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.last(self.wide(self.narrow(x)))


class Gated(Net):
    """Two halves of one convolution are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.after = conv(8, 12), conv(6, 8)

    def body(self, x: Tensor) -> Tensor:
        one, other = self.both(x).chunk(2, dim=1)
        return self.after(one * torch.sigmoid(other))


class GatedTokens(Net):
    """The same of tokens, one of which is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.after = nn.Linear(8, 12), nn.Linear(6, 8)
        self.first = nn.Parameter(torch.randn(1, 1, 8))

    def body(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.first.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        one, other = self.both(tokens).chunk(2, dim=-1)
        return (tokens + self.after(one * torch.sigmoid(other))).transpose(1, 2).unsqueeze(3)


class Normed(Net):
    """A layer norm and group norms, with a free factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.grouped, self.whole = nn.Conv2d(8, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.GroupNorm(1, 8)
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 10), nn.Linear(10, 8)
        self.factor = nn.Parameter(torch.ones(8))

    def body(self, x: Tensor) -> Tensor:
        y = self.norm(self.grouped(self.into(self.whole(x))).permute(0, 2, 3, 1))
        return x + (self.down(torch.nn.functional.gelu(self.up(y))) * self.factor).permute(0, 3, 1, 2)


class RootNorm(nn.Module):
    """Root mean squares, as those write it who do not use torch's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalized_shape = (width,)
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


class RootNormed(Net):
    """Two kinds of it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back = nn.Linear(8, 6), nn.Linear(6, 8)
        self.own, self.torchs = RootNorm(6), nn.RMSNorm(8)

    def body(self, x: Tensor) -> Tensor:
        y = self.own(self.into(self.torchs(x.permute(0, 2, 3, 1))))
        return x + self.back(y).permute(0, 3, 1, 2)


class Flat(nn.Module):
    """The last feature maps are flattened: each channel is many inputs of the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 6), nn.MaxPool2d(4), conv(6, 4))
        self.hidden, self.head = nn.Linear(4 * 16, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.features(x).flatten(1))))


class Rigid(Net):
    """A number of channels is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.rigid, self.free = conv(8, 6), conv(6, 8)
        self.inner, self.outer = conv(8, 6), conv(6, 8)

    def body(self, x: Tensor) -> Tensor:
        y = self.rigid(x)
        x = x + self.free(y.reshape(y.shape[0], 6, *y.shape[2:]))
        return x + self.outer(self.inner(x))


class Shaped(nn.Module):
    """A factor for each channel, put in its place by a shape that is written down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape, self.factor = (width, 1, 1), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor.view(self.shape)


class Noted(Net):
    """A number of channels is written down where it can be changed; the same number also says something else."""

    def __init__(self) -> None:
        super().__init__()
        self.stiff, self.shaped, self.free = conv(8, 6), Shaped(6), conv(6, 8)
        self.hidden, self.patch_size = 6, 6

    def body(self, x: Tensor) -> Tensor:
        y = self.shaped(self.stiff(x))
        y = torch.nn.functional.pad(y.reshape(y.shape[0], self.hidden, *y.shape[2:]), [0, self.patch_size - 6])
        return x + self.free(y)


class Pieced(Net):
    """Four neighbours become one pixel of four times the channels, as where Swin joins its patches."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = conv(8, 6), conv(6, 8)
        self.piece, self.join = nn.Conv2d(8, 4, 1), nn.Linear(16, 8)

    def body(self, x: Tensor) -> Tensor:
        x = x + self.outer(self.inner(x))
        y = self.piece(x).permute(0, 2, 3, 1)
        y = torch.cat([y[:, 0::2, 0::2], y[:, 1::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 1::2]], dim=-1)
        return self.join(y).permute(0, 3, 1, 2)


class Striped(Net):
    """Its first convolution treats the colours apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), conv(6, 8))


class Paired(Net):
    """Each filter of a grouped convolution reads two channels, which Torch-Pruning takes for depthwise."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.paired, self.after = conv(8, 12), nn.Conv2d(12, 6, 1, groups=6), conv(6, 8)

    def body(self, x: Tensor) -> Tensor:
        return x + self.after(self.paired(self.made(x)))


class Mixing(Net):
    """What a channel becomes depends on all the others, by a mean that knows nothing of channels that are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.after = conv(8, 6), conv(6, 8)

    def body(self, x: Tensor) -> Tensor:
        y = self.mixed(x)
        return self.after(y - y.mean(dim=1, keepdim=True))


class Idle(Net):
    """Nobody listens to one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.after = conv(8, 6), conv(6, 8)

    def body(self, x: Tensor) -> Tensor:
        return x + 0 * self.after(self.idle(x))


class Asleep(Net):
    def body(self, x: Tensor) -> Tensor:
        time.sleep(600)
        return x


class Dying(Net):
    def body(self, x: Tensor) -> Tensor:
        os._exit(1)


class Lone(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lone, self.after = conv(8, 1), conv(1, 8)

    def body(self, x: Tensor) -> Tensor:
        return x + self.after(self.lone(x))


class Attentive(Net):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        x = x + self.down(torch.relu(self.up(x)))
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).unflatten(2, x.shape[2:])


class Around(nn.Module):
    """One layer, of images [N, 3, S, S]; attention gets the same three times."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        *before, last = self.layer if isinstance(self.layer, nn.Sequential) else (self.layer,)
        for layer in before:
            x = layer(x)
        return last(x, x, x)[0] if isinstance(last, nn.MultiheadAttention) else last(x)


SOUND = (Residual, Dense, Squeezed, Grouped, Gated, GatedTokens, Normed, RootNormed, Flat, Noted)
