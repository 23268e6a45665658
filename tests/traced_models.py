"""Small models of every kind the tracer is to understand, each with an input and the groups it has to find.

A group is written as its number of units, or as units/blocks where it moves within the blocks of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    groups: str


class Apply(nn.Module):
    """Layers by name, and a function of them and the input."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def seq(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def around(middle: Callable[[Tensor], Tensor], width: int = 12, after: int | None = None, **layers: nn.Module) -> Apply:
    """Dense layers of `width` units around a function of their activations."""
    return Apply(
        lambda m, x: m.out(middle(m, F.gelu(m.inp(x)))),
        inp=nn.Linear(5, width),
        out=nn.Linear(after or width, 3),
        **layers,
    )


# ---- convolutions -----------------------------------------------------------------------------------------------


def conv_case(kind: str, dimensions: int) -> Case:
    conv, norm = getattr(nn, f"{kind}{dimensions}d"), getattr(nn, f"BatchNorm{dimensions}d")
    shape = (2, 3) + (6,) * dimensions
    return Case(lambda: seq(conv(3, 4, 3), norm(4), nn.ReLU(), conv(4, 5, 3), nn.ReLU(), conv(5, 2, 1)), shape, "4 5")


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


IMAGE = (2, 3, 8, 8)
CONVOLUTIONS = {
    **{f"Conv{n}d": conv_case("Conv", n) for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": conv_case("ConvTranspose", n) for n in (1, 2, 3)},
    "grouped": Case(
        lambda: seq(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.Tanh(), nn.Conv2d(12, 2, 1)),
        IMAGE,
        "4 8/4 12/4",
    ),
    "grouped after grouped": Case(
        lambda: seq(
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 3, groups=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=4),
            nn.Conv2d(8, 2, 1),
        ),
        IMAGE,
        "2 4/2 8/2 8/4 8/4",
    ),
    "grouped transposed": Case(
        lambda: seq(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.Conv2d(6, 2, 1)),
        IMAGE,
        "2 8/2 6/2",
    ),
    "depthwise separable": Case(
        lambda: seq(
            nn.Conv2d(3, 6, 1),
            nn.ReLU6(),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.BatchNorm2d(6),
            nn.ReLU6(),
            nn.Conv2d(6, 2, 1),
        ),
        IMAGE,
        "6",
    ),
    "depthwise with multiplier": Case(
        lambda: seq(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)), IMAGE, "4 8/4"
    ),
    "channel shuffle": Case(
        lambda: seq(
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 1, groups=2),
            nn.ChannelShuffle(2),
            nn.Conv2d(8, 8, 1, groups=4),
            nn.Conv2d(8, 2, 1),
        ),
        IMAGE,
        "2 8/2 4 8/4",
    ),
    "pixel shuffle": Case(
        lambda: seq(
            nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3), nn.PixelUnshuffle(2), nn.Conv2d(16, 2, 1)
        ),
        IMAGE,
        "2 4",
    ),
    "flatten": Case(
        lambda: seq(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 7), nn.ELU(), nn.Linear(7, 2)), IMAGE, "4 7"
    ),
    "pools": Case(
        lambda: seq(
            nn.Conv2d(3, 4, 1),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 1),
            nn.AvgPool2d(2),
            nn.Conv2d(5, 6, 1),
            nn.AdaptiveAvgPool2d((2, 1)),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(6, 7, 1),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(7, 2),
        ),
        IMAGE,
        "4 5 6 7",
    ),
    "padding": Case(
        lambda: seq(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ZeroPad2d(2), nn.Conv2d(4, 2, 3)),
        IMAGE,
        "4",
    ),
    "squeeze and excite": Case(lambda: seq(nn.Conv2d(3, 8, 3), SqueezeExcite(8, 4), nn.Conv2d(8, 2, 1)), IMAGE, "8 4"),
    "padded shortcut": Case(  # the shortcut of the first CIFAR ResNets: new channels are zero
        lambda: Apply(
            lambda m, x: m.c(m.b(h := m.a(x)) + F.pad(h, (0, 0, 0, 0, 2, 2))),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(4, 8, 1),
            c=nn.Conv2d(8, 2, 1),
        ),
        IMAGE,
        "4 2 2",
    ),
}

# ---- norms ------------------------------------------------------------------------------------------------------


def norm_case(norm: Callable[[], nn.Module], groups: str, shape: tuple[int, ...] = IMAGE) -> Case:
    return Case(lambda: seq(nn.Conv2d(3, 8, 3), norm(), nn.SiLU(), nn.Conv2d(8, 2, 1)), shape, groups)


def weight_normed() -> nn.Module:
    wrapped = torch.nn.utils.parametrizations.weight_norm
    return seq(wrapped(nn.Linear(5, 8)), nn.ReLU(), wrapped(nn.Linear(8, 6), dim=1), nn.ReLU(), nn.Linear(6, 2))


def spectrally_normed() -> nn.Module:
    wrapped = torch.nn.utils.parametrizations.spectral_norm
    return seq(wrapped(nn.Conv2d(3, 8, 3)), nn.ReLU(), wrapped(nn.Conv2d(8, 2, 3)))


NORMS = {
    "BatchNorm": norm_case(lambda: nn.BatchNorm2d(8), "8"),
    "BatchNorm without affine": norm_case(lambda: nn.BatchNorm2d(8, affine=False), "8"),
    "GroupNorm": norm_case(lambda: nn.GroupNorm(4, 8), "4 8/4"),
    "GroupNorm of one group": norm_case(lambda: nn.GroupNorm(1, 8), "8"),
    "GroupNorm of single channels": norm_case(lambda: nn.GroupNorm(8, 8), "8"),
    "InstanceNorm": norm_case(lambda: nn.InstanceNorm2d(8, affine=True), "8"),
    "InstanceNorm with statistics": norm_case(lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), "8"),
    "LocalResponseNorm": norm_case(lambda: nn.LocalResponseNorm(3), ""),
    "LayerNorm over space": norm_case(lambda: nn.LayerNorm((8, 6, 6)), "8"),
    "LayerNorm": Case(lambda: seq(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)), (3, 5), "8"),
    "RMSNorm": Case(lambda: seq(nn.Linear(5, 8), nn.RMSNorm(8), nn.Linear(8, 2)), (3, 5), "8"),
    "weight norm": Case(weight_normed, (3, 5), "8 6"),
    "spectral norm": Case(spectrally_normed, IMAGE, "8"),
    "normalize": Case(lambda: around(lambda m, h: F.normalize(h, dim=-1)), (3, 5), "12"),
}

# ---- activations ------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    name: Case(lambda name=name: seq(nn.Linear(5, 8), getattr(nn, name)(), nn.Linear(8, 2)), (3, 5), "8")
    for name in (
        "ReLU",
        "ReLU6",
        "LeakyReLU",
        "ELU",
        "SELU",
        "CELU",
        "GELU",
        "SiLU",
        "Mish",
        "Softplus",
        "Softsign",
        "Tanh",
        "Sigmoid",
        "LogSigmoid",
        "Hardtanh",
        "Hardswish",
        "Hardsigmoid",
        "Hardshrink",
        "Softshrink",
        "Tanhshrink",
        "Threshold",
        "Identity",
        "Dropout",
        "AlphaDropout",
        "PReLU",
        "RReLU",
        "Softmax",
        "LogSoftmax",
        "Softmin",
    )
    if name not in ("Threshold", "Softmax", "LogSoftmax", "Softmin")
}
ACTIVATIONS |= {
    "PReLU of channels": Case(lambda: seq(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 2, 1)), IMAGE, "8"),
    "Softmax": Case(lambda: seq(nn.Linear(5, 8), nn.Softmax(-1), nn.Linear(8, 2)), (3, 5), "8"),
    "LogSoftmax": Case(lambda: seq(nn.Linear(5, 8), nn.LogSoftmax(-1), nn.Linear(8, 2)), (3, 5), "8"),
    "GLU": Case(lambda: seq(nn.Linear(5, 12), nn.GLU(), nn.Linear(6, 2)), (3, 5), "6"),
    "SwiGLU": Case(
        lambda: around(lambda m, h: F.silu(m.gate(h)) * m.up(h), gate=nn.Linear(12, 7), up=nn.Linear(12, 7), after=7),
        (3, 5),
        "12 7",
    ),
    "GEGLU, fused": Case(
        lambda: around(lambda m, h: (c := m.both(h).chunk(2, -1))[0] * F.gelu(c[1]), both=nn.Linear(12, 14), after=7),
        (3, 5),
        "12 7",
    ),
    "maxout": Case(lambda: around(lambda m, h: h.reshape(-1, 4, 3).amax(-1), after=4), (3, 5), "4 12/4"),
    "in place": Case(lambda: seq(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)), (3, 5), "8"),
}

# ---- reshapes, joins and parts ----------------------------------------------------------------------------------

SHAPES = {
    "residual": Case(
        lambda: around(lambda m, h: h + m.b(torch.relu(m.a(h))), a=nn.Linear(12, 7), b=nn.Linear(7, 12)), (3, 5), "12 7"
    ),
    "concat": Case(
        lambda: around(lambda m, h: torch.cat([m.a(h), h], -1), a=nn.Linear(12, 7), after=19), (3, 5), "12 7"
    ),
    "dense block": Case(
        lambda: Apply(
            lambda m, x: m.c(torch.cat([h := torch.cat([x, m.a(x)], 1), m.b(h)], 1)),
            a=nn.Conv2d(3, 4, 3, padding=1),
            b=nn.Conv2d(7, 5, 3, padding=1),
            c=nn.Conv2d(12, 2, 1),
        ),
        IMAGE,
        "4 5",
    ),
    "split": Case(
        lambda: around(lambda m, h: torch.cat([m.a(h[..., :4]), h[..., 4:]], -1), a=nn.Linear(4, 7), after=15),
        (3, 5),
        "4 7 8",
    ),
    "chunk": Case(
        lambda: around(lambda m, h: (c := h.chunk(3, -1))[0] * c[1] + m.a(c[2]), a=nn.Linear(4, 4), after=4),
        (3, 5),
        "4 4",
    ),
    "split in sizes": Case(
        lambda: around(lambda m, h: torch.cat([t.softmax(-1) for t in h.split([3, 4, 5], -1)], -1)), (3, 5), "3 4 5"
    ),
    "stack": Case(
        lambda: around(
            lambda m, h: torch.stack([m.a(h), m.b(h)], 1).mean(1), a=nn.Linear(12, 7), b=nn.Linear(12, 7), after=7
        ),
        (3, 5),
        "12 7",
    ),
    "stack and select": Case(
        lambda: around(lambda m, h: torch.stack([m.a(h), m.b(h)])[1], a=nn.Linear(12, 7), b=nn.Linear(12, 7), after=7),
        (3, 5),
        "12 7",
    ),
    "every second": Case(lambda: around(lambda m, h: h[..., ::2] * h[..., 1::2], after=6), (3, 5), "6"),
    "part never used": Case(lambda: around(lambda m, h: h[..., :5], after=5), (3, 5), "5"),
    "view and back": Case(lambda: around(lambda m, h: h.view(-1, 3, 4).flatten(1)), (3, 5), "12"),
    "heads that do nothing": Case(
        lambda: around(lambda m, h: F.softmax(h.view(-1, 3, 4), -1).flatten(1)), (3, 5), "3 12/3"
    ),
    "transposed on the way": Case(
        lambda: around(lambda m, h: F.softmax(h.view(-1, 3, 4), -1).transpose(1, 2).flatten(1)), (3, 5), "3 12/3"
    ),
    "shapes that do not fit": Case(
        lambda: around(lambda m, h: F.softmax(F.softmax(h.view(-1, 3, 4), -1).view(-1, 4, 3), -1).flatten(1)),
        (3, 5),
        "",
    ),
    "pieces of units": Case(lambda: around(lambda m, h: h.view(-1, 3, 4).sum(1)[:, :3], after=3), (3, 5), "3 3"),
    "einsum": Case(
        lambda: around(
            lambda m, h: torch.einsum("bij,jk->bik", h.view(-1, 3, 4), m.a.weight).flatten(1),
            a=nn.Linear(6, 4, bias=False),
            after=18,
        ),
        (3, 5),
        "3 4 6",
    ),
    "distances": Case(
        lambda: around(lambda m, h: torch.cdist(h, m.a.weight), a=nn.Linear(12, 7), after=7), (3, 5), "12 7"
    ),
    "unpooling": Case(
        lambda: Apply(
            lambda m, x: m.b(F.max_unpool2d(*F.max_pool2d(m.a(x), 2, return_indices=True), 2)),
            a=nn.Conv2d(3, 4, 1),
            b=nn.Conv2d(4, 2, 1),
        ),
        IMAGE,
        "4",
    ),
    "modulated": Case(
        lambda: Apply(
            lambda m, x: m.b(
                m.a(x) * (c := m.c(x.mean((2, 3))).chunk(2, -1))[0][..., None, None] + c[1][..., None, None]
            ),
            a=nn.Conv2d(3, 8, 3),
            b=nn.Conv2d(8, 2, 1),
            c=nn.Linear(3, 16),
        ),
        IMAGE,
        "8",
    ),
    "low rank": Case(
        lambda: around(
            lambda m, h: h @ (m.a.weight.T @ m.b.weight),
            a=nn.Linear(12, 4, bias=False),
            b=nn.Linear(7, 4, bias=False),
            after=7,
        ),
        (3, 5),
        "12 4 7",
    ),
    "mapped over the batch": Case(
        lambda: around(
            lambda m, h: torch.vmap(lambda row: torch.tanh(m.a.weight @ row))(h), a=nn.Linear(12, 7), after=7
        ),
        (3, 5),
        "12 7",
    ),
    "bags of words": Case(
        lambda: Apply(
            lambda m, x: m.out(torch.relu(m.bag(torch.arange(8).reshape(2, 4)))),
            bag=nn.EmbeddingBag(11, 6, mode="mean"),
            out=nn.Linear(6, 2),
        ),
        (2, 5),
        "6",
    ),
    "mean over positions": Case(lambda: around(lambda m, h: h.mean(1)), (3, 4, 5), "12"),
    "patches": Case(
        lambda: Apply(
            lambda m, x: m.b(F.gelu(m.a(x)).flatten(2).transpose(1, 2)).mean(1),
            a=nn.Conv2d(3, 6, 4, 4),
            b=nn.Linear(6, 2),
        ),
        IMAGE,
        "6",
    ),
    "patch merging": Case(
        lambda: Apply(
            lambda m, x: m.b(
                torch.cat(
                    [(h := m.a(x).movedim(1, -1))[:, 0::2, 0::2], h[:, 1::2, 0::2], h[:, 0::2, 1::2], h[:, 1::2, 1::2]],
                    -1,
                )
            ),
            a=nn.Conv2d(3, 6, 1),
            b=nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 2)),
        ),
        IMAGE,
        "6",
    ),
    "windows": Case(
        lambda: Apply(
            lambda m, x: m.b(
                F.softmax(m.a(x).view(-1, 6, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 6), 1)
            ).mean(1),
            a=nn.Conv2d(3, 6, 1),
            b=nn.Linear(6, 2),
        ),
        IMAGE,
        "6",
    ),
    "unfold": Case(
        lambda: Apply(lambda m, x: m.b(F.unfold(m.a(x), 2).transpose(1, 2)), a=nn.Conv2d(3, 4, 1), b=nn.Linear(16, 2)),
        IMAGE,
        "4",
    ),
    "mixer": Case(
        lambda: Apply(
            lambda m, x: m.out((h := m.inp(x)) + m.back(F.gelu(m.mix(h.transpose(1, 2)))).transpose(1, 2)).mean(1),
            inp=nn.Linear(5, 6),
            mix=nn.Linear(4, 9),
            back=nn.Linear(9, 4),
            out=nn.Linear(6, 2),
        ),
        (3, 4, 5),
        "6 9",
    ),
    "pointwise convolution over tokens": Case(
        lambda: Apply(
            lambda m, x: m.out(F.gelu(m.mix(m.inp(x)))).mean(1),
            inp=nn.Linear(5, 6),
            mix=nn.Conv1d(4, 9, 1),
            out=nn.Linear(6, 2),
        ),
        (3, 4, 5),
        "6 9",
    ),
    "bilinear": Case(lambda: around(lambda m, h: m.a(h, h), a=nn.Bilinear(12, 12, 7), after=7), (3, 5), "12 7"),
    "outer product": Case(
        lambda: around(
            lambda m, h: (m.a(h)[:, :, None] * m.b(h)[:, None]).flatten(1),
            a=nn.Linear(12, 3),
            b=nn.Linear(12, 4),
            after=12,
        ),
        (3, 5),
        "12 3 4",
    ),
    "written into a buffer": Case(lambda: around(_written), (3, 5), "5 7"),
    "written in place": Case(lambda: around(_added_in_place, a=nn.Linear(12, 12)), (3, 5), "12 12"),
    "roll": Case(lambda: around(lambda m, h: h + h.roll(1, -1)), (3, 5), ""),
    "flip": Case(lambda: around(lambda m, h: h + h.flip(-1)), (3, 5), ""),
    "cumsum": Case(lambda: around(lambda m, h: h.cumsum(-1)), (3, 5), ""),
    "sort": Case(lambda: around(lambda m, h: h.sort(-1).values), (3, 5), "12"),
    "position table": Case(
        lambda: Apply(
            lambda m, x: m.out(m.inp(x) + m.table.weight[: x.shape[1]]),
            inp=nn.Linear(5, 6),
            table=nn.Embedding(9, 6),
            out=nn.Linear(6, 2),
        ),
        (3, 4, 5),
        "6",
    ),
}


def _written(m: Any, h: Tensor) -> Tensor:
    out = h.new_zeros(h.shape)
    out[:, :5] = h[:, 7:]
    out[:, 5:] = h[:, :7].relu()
    return out


def _added_in_place(m: Any, h: Tensor) -> Tensor:
    h = m.a(h)
    h.view(-1, 3, 4).mul_(2).add_(1)
    h += 1
    return h.tanh_()


# ---- attention --------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention in the ways people write it, with a residual stream of 8 around it."""

    def __init__(self, core: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.core = core
        self.inp, self.proj, self.out = nn.Linear(5, 8), nn.Linear(12, 8), nn.Linear(8, 2)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        return self.out(h + self.proj(self.core(self, h)))


def heads(x: Tensor, count: int = 3) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 + bias
    return merged(scores.softmax(-1) @ v)


def separate(q: int = 12, k: int = 12, v: int = 12) -> dict[str, nn.Module]:
    return {"q": nn.Linear(8, q), "k": nn.Linear(8, k), "v": nn.Linear(8, v)}


def rotate(x: Tensor, halves: bool) -> Tensor:
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] / 10 ** torch.arange(x.shape[-1] // 2, dtype=x.dtype)
    if halves:
        cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin
    even, odd = x[..., ::2], x[..., 1::2]
    turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(turned, -1).flatten(-2)


def fused_by_split(m: Any, h: Tensor) -> Tensor:
    return attend(*map(heads, m.qkv(h).split(12, -1)))


def fused_by_unbind(m: Any, h: Tensor) -> Tensor:
    return attend(*m.qkv(h).reshape(h.shape[0], h.shape[1], 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0))


def fused_beside_the_batch(m: Any, h: Tensor) -> Tensor:
    """As in the detectors' vision transformers: heads are joined with the batch before anything is taken apart."""
    b, t, _ = h.shape
    q, k, v = m.qkv(h).reshape(b, t, 3, 3, 4).permute(2, 0, 3, 1, 4).reshape(3, b * 3, t, 4).unbind(0)
    out = (q * 0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
    return out.view(b, 3, t, 4).permute(0, 2, 1, 3).reshape(b, t, 12)


def fused_within_heads(m: Any, h: Tensor) -> Tensor:
    return attend(*m.qkv(h).view(h.shape[0], h.shape[1], 3, 12).transpose(1, 2).split(4, -1))


def with_norm(m: Any, h: Tensor) -> Tensor:
    return attend(m.norm(heads(m.q(h))), m.norm(heads(m.k(h))), heads(m.v(h)))


def grouped_queries(m: Any, h: Tensor) -> Tensor:
    q, k, v = heads(m.q(h), 4), heads(m.k(h), 2), heads(m.v(h), 2)
    return attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))


def grouped_queries_sdpa(m: Any, h: Tensor) -> Tensor:
    q, k, v = heads(m.q(h), 4), heads(m.k(h), 2), heads(m.v(h), 2)
    return merged(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))


def relative_bias(m: Any, h: Tensor) -> Tensor:
    distance = (torch.arange(h.shape[1])[:, None] - torch.arange(h.shape[1])).abs()
    return attend(heads(m.q(h)), heads(m.k(h)), heads(m.v(h)), m.table(distance).permute(2, 0, 1))


def alibi(m: Any, h: Tensor) -> Tensor:
    distance = torch.arange(h.shape[1])[:, None] - torch.arange(h.shape[1])
    return attend(
        heads(m.q(h)), heads(m.k(h)), heads(m.v(h)), -torch.tensor([0.5, 0.25, 0.125])[:, None, None] * distance
    )


def alibi_fused(m: Any, h: Tensor) -> Tensor:
    """Heads that stay, as a group that cannot move: something has to tell the block of what lies behind queries."""
    distance = torch.arange(h.shape[1])[:, None] - torch.arange(h.shape[1])
    qkv = m.qkv(h).view(h.shape[0], h.shape[1], 3, 3, 4)
    q, k, v = (qkv[:, :, :, i].transpose(1, 2) for i in range(3))
    return attend(q, k, v, -torch.tensor([0.5, 0.25, 0.125])[:, None, None] * distance)


def talking_heads(m: Any, h: Tensor) -> Tensor:
    q, k, v = heads(m.q(h)), heads(m.k(h)), heads(m.v(h))
    scores = (q @ k.transpose(-2, -1)).softmax(-1)
    return merged(m.mix(scores.movedim(1, -1)).movedim(-1, 1) @ v)


def mixed_in_place_of_heads(m: Any, h: Tensor) -> Tensor:
    """Heads added up to heads of the same atom: units may not differ from head to head."""
    v = heads(m.v(h)).movedim(1, -1)
    return merged((v + m.mix(v)).movedim(-1, 1).relu())


def heads_against_heads(m: Any, h: Tensor) -> Tensor:
    """Products of all pairs of heads, unit by unit: a tensor with the heads twice, so units have one order for all."""
    v = heads(m.v(h)).transpose(1, 2)
    pairs = (v[:, :, :, None] * v[:, :, None]).sum(-1)
    return torch.cat([pairs.flatten(2), m.rest(h)], -1)


def heads_times_heads(product: Callable[[Tensor], Tensor]) -> Case:
    """The same where no tensor in memory has the heads twice beside their units."""
    return Case(
        lambda: Attention(
            lambda m, h: torch.cat([product(heads(m.v(h)).transpose(1, 2)).flatten(2), m.rest(h)], -1),
            v=nn.Linear(8, 12),
            rest=nn.Linear(8, 3),
        ),
        TOKENS,
        "8 3 4 3",
    )


def linear_attention(m: Any, h: Tensor) -> Tensor:
    q, k, v = heads(m.q(h)).softmax(-1), heads(m.k(h)).softmax(-2), heads(m.v(h))
    return merged(torch.einsum("bhtd,bhde->bhte", q, torch.einsum("bhtd,bhte->bhde", k, v)))


def multi_query(m: Any, h: Tensor) -> Tensor:
    return attend(heads(m.q(h)), m.k(h)[:, None], m.v(h)[:, None])


TOKENS = (2, 4, 5)
FULL = "8 3 12/3 12/3"
ATTENTION = {
    "nn.MultiheadAttention": Case(
        lambda: Apply(
            lambda m, x: m.out((h := m.inp(x)) + m.att(h, h, h)[0]),
            inp=nn.Linear(5, 12),
            att=nn.MultiheadAttention(12, 3, batch_first=True),
            out=nn.Linear(12, 2),
        ),
        TOKENS,
        "12 3 12/3 12/3",
    ),
    "nn.MultiheadAttention without weights": Case(
        lambda: Apply(
            lambda m, x: m.out((h := m.inp(x)) + m.att(h, h, h, need_weights=False)[0]),
            inp=nn.Linear(5, 12),
            att=nn.MultiheadAttention(12, 3),
            out=nn.Linear(12, 2),
        ),
        TOKENS,
        "12 3 12/3 12/3",
    ),
    "nn.MultiheadAttention of other widths": Case(
        lambda: Apply(
            lambda m, x: m.out((h := m.inp(x)) + m.att(h, m.b(x), m.c(x), need_weights=False)[0]),
            inp=nn.Linear(5, 12),
            b=nn.Linear(5, 6),
            c=nn.Linear(5, 7),
            att=nn.MultiheadAttention(12, 3, kdim=6, vdim=7, batch_first=True, add_bias_kv=True, add_zero_attn=True),
            out=nn.Linear(12, 2),
        ),
        TOKENS,
        "12 3 12/3 12/3 6 7",
    ),
    "encoder layer": Case(
        lambda: seq(nn.Linear(5, 12), nn.TransformerEncoderLayer(12, 3, 7, batch_first=True), nn.Linear(12, 2)),
        TOKENS,
        "12 3 12/3 12/3 7",
    ),
    "encoder": Case(
        lambda: seq(
            nn.Linear(5, 12),
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(12, 3, 7, batch_first=True, norm_first=True), 2, enable_nested_tensor=False
            ),
            nn.Linear(12, 2),
        ),
        TOKENS,
        "12 3 12/3 12/3 7 3 12/3 12/3 7",
    ),
    "decoder layer": Case(
        lambda: Apply(
            lambda m, x: m.out(m.body(m.a(x), m.b(x))),
            a=nn.Linear(5, 12),
            b=nn.Linear(5, 12),
            body=nn.TransformerDecoderLayer(12, 3, 7, batch_first=True),
            out=nn.Linear(12, 2),
        ),
        TOKENS,
        "12 3 12/3 12/3 3 12/3 12/3 7",
    ),
    "separate": Case(
        lambda: Attention(lambda m, h: attend(heads(m.q(h)), heads(m.k(h)), heads(m.v(h))), **separate()), TOKENS, FULL
    ),
    "sdpa": Case(
        lambda: Attention(
            lambda m, h: merged(
                F.scaled_dot_product_attention(heads(m.q(h)), heads(m.k(h)), heads(m.v(h)), is_causal=True)
            ),
            **separate(),
        ),
        TOKENS,
        FULL,
    ),
    "fused, split": Case(lambda: Attention(fused_by_split, qkv=nn.Linear(8, 36)), TOKENS, FULL),
    "fused, unbind": Case(lambda: Attention(fused_by_unbind, qkv=nn.Linear(8, 36)), TOKENS, FULL),
    "fused, beside the batch": Case(lambda: Attention(fused_beside_the_batch, qkv=nn.Linear(8, 36)), TOKENS, FULL),
    "fused, within heads": Case(lambda: Attention(fused_within_heads, qkv=nn.Linear(8, 36)), TOKENS, FULL),
    "values of another width": Case(
        lambda: Attention(lambda m, h: attend(heads(m.q(h)), heads(m.k(h)), heads(m.v(h))), **separate(6, 6, 12)),
        TOKENS,
        "8 3 6/3 12/3",
    ),
    "norm of queries and keys": Case(
        lambda: Attention(with_norm, norm=nn.LayerNorm(4), **separate()), TOKENS, "8 3 4 12/3"
    ),
    "grouped queries": Case(lambda: Attention(grouped_queries, **separate(12, 6, 6)), TOKENS, "8 2 4/2 6/2 6/2"),
    "grouped queries, sdpa": Case(
        lambda: Attention(grouped_queries_sdpa, **separate(12, 6, 6)), TOKENS, "8 2 4/2 6/2 6/2"
    ),
    "multi-query": Case(lambda: Attention(multi_query, **separate(12, 4, 4)), TOKENS, "8 3 4 4"),
    "rotary, halves": Case(
        lambda: Attention(
            lambda m, h: attend(rotate(heads(m.q(h)), True), rotate(heads(m.k(h)), True), heads(m.v(h))), **separate()
        ),
        TOKENS,
        "8 3 12/3",
    ),
    "rotary, pairs": Case(
        lambda: Attention(
            lambda m, h: attend(rotate(heads(m.q(h)), False), rotate(heads(m.k(h)), False), heads(m.v(h))), **separate()
        ),
        TOKENS,
        "8 3 12/3",
    ),
    "relative bias per head": Case(
        lambda: Attention(relative_bias, table=nn.Embedding(9, 3), **separate()), TOKENS, FULL
    ),
    "ALiBi": Case(lambda: Attention(alibi, **separate()), TOKENS, "8 12/3 12/3"),
    "ALiBi, fused within heads": Case(lambda: Attention(alibi_fused, qkv=nn.Linear(8, 36)), TOKENS, "8 3/3 12/3 12/3"),
    "talking heads": Case(
        lambda: Attention(talking_heads, mix=nn.Linear(3, 3), **separate()), TOKENS, "8 3 3 12/3 12/3"
    ),
    "heads mixed in a residual": Case(
        lambda: Attention(mixed_in_place_of_heads, mix=nn.Linear(3, 3), v=nn.Linear(8, 12)), TOKENS, "8 3 4"
    ),
    "heads against heads": Case(
        lambda: Attention(heads_against_heads, v=nn.Linear(8, 12), rest=nn.Linear(8, 3)), TOKENS, "8 3 4 3"
    ),
    "heads against heads, matmul": heads_times_heads(lambda v: v @ v.mT),
    "heads against heads, einsum": heads_times_heads(lambda v: torch.einsum("bthu,btgu->bthg", v, v)),
    "heads against heads, distances": heads_times_heads(lambda v: torch.cdist(v, v)),
    "heads against heads, attention": heads_times_heads(
        lambda v: F.scaled_dot_product_attention(v, v, torch.eye(3, dtype=v.dtype).expand(*v.shape[:2], 3, 3))
    ),
    "linear attention": Case(lambda: Attention(linear_attention, **separate()), TOKENS, FULL),
}

# ---- recurrence -------------------------------------------------------------------------------------------------


def recurrent(kind: str, **options: Any) -> Callable[[], nn.Module]:
    width = 6 * (2 if options.get("bidirectional") else 1)
    layer = getattr(nn, kind)
    return lambda: Apply(
        lambda m, x: m.out(m.rnn(m.inp(x))[0]),
        inp=nn.Linear(5, 7),
        rnn=layer(7, 6, batch_first=True, **options),
        out=nn.Linear(width, 2),
    )


class Cells(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.out = cell(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.out(state[0] if isinstance(state, tuple) else state)


RECURRENT = {
    **{kind: Case(recurrent(kind), TOKENS, "7 6") for kind in ("LSTM", "GRU", "RNN")},
    **{
        f"{kind}, deep, both ways": Case(recurrent(kind, num_layers=2, bidirectional=True), TOKENS, "7 6 6 6 6")
        for kind in ("LSTM", "GRU")
    },
    "LSTM without biases": Case(recurrent("LSTM", bias=False), TOKENS, "7 6"),
    "LSTM with projection": Case(
        lambda: Apply(
            lambda m, x: m.out(m.rnn(x)[0]), rnn=nn.LSTM(5, 6, proj_size=4, batch_first=True), out=nn.Linear(4, 2)
        ),
        TOKENS,
        "6 4",
    ),
    "LSTM, last state": Case(
        lambda: Apply(lambda m, x: m.out(m.rnn(x)[1][0][-1]), rnn=nn.LSTM(5, 6, batch_first=True), out=nn.Linear(6, 2)),
        TOKENS,
        "6",
    ),
    **{
        name: Case(lambda name=name: Cells(getattr(nn, name)), TOKENS, "6")
        for name in ("LSTMCell", "GRUCell", "RNNCell")
    },
}

# ---- mixtures of experts ----------------------------------------------------------------------------------------


class Experts(nn.Module):
    """Four experts as stacked parameters, or as modules, with 7 hidden units each, around a stream of 6."""

    def __init__(self, core: Callable[[Any, Tensor, Tensor], Tensor], modules: bool = False) -> None:
        super().__init__()
        self.core = core
        self.inp, self.router, self.out = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(6, 2)
        if modules:
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6)) for _ in range(4))
        else:
            self.up, self.down = nn.Parameter(torch.randn(4, 6, 7)), nn.Parameter(torch.randn(4, 7, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        return self.out(h + self.core(self, h, self.router(h).softmax(-1)))


def experts_all(m: Any, h: Tensor, gates: Tensor) -> Tensor:
    hidden = F.gelu(torch.einsum("btd,edf->btef", h, m.up))
    return torch.einsum("bte,btef,efd->btd", gates, hidden, m.down)


def experts_looked_up(m: Any, h: Tensor, gates: Tensor) -> Tensor:
    weights, chosen = gates.topk(2, -1)
    hidden = F.gelu(torch.einsum("btd,btkdf->btkf", h, m.up[chosen]))
    return (torch.einsum("btkf,btkfd->btkd", hidden, m.down[chosen]) * weights.unsqueeze(-1)).sum(-2)


def experts_first_and_second(m: Any, h: Tensor, gates: Tensor) -> Tensor:
    """Two lookups of one bank at the same places: hidden units of both are added up, so experts must agree."""
    chosen = gates.topk(2, -1).indices
    hidden = torch.einsum("btd,btdf->btf", h, m.up[chosen[..., 0]]) + torch.einsum(
        "btd,btdf->btf", h, m.up[chosen[..., 1]]
    )
    return torch.einsum("btf,btfd->btd", F.gelu(hidden), m.down[chosen[..., 0]])


def experts_best(m: Any, h: Tensor, gates: Tensor) -> Tensor:
    best = gates.argmax(-1)
    hidden = F.gelu(torch.einsum("btd,btdf->btf", h, m.up.index_select(0, best.flatten()).view(*best.shape, 6, 7)))
    return torch.einsum("btf,btfd->btd", hidden, F.embedding(best, m.down.flatten(1)).unflatten(-1, (7, 6)))


def experts_scattered(m: Any, h: Tensor, gates: Tensor) -> Tensor:
    weights, chosen = gates.topk(2, -1)
    return experts_all(m, h, torch.zeros_like(gates).scatter(-1, chosen, weights))


def experts_stacked(m: Any, h: Tensor, gates: Tensor) -> Tensor:
    return (torch.stack([expert(h) for expert in m.experts], -2) * gates.unsqueeze(-1)).sum(-2)


def experts_masked(m: Any, h: Tensor, gates: Tensor) -> Tensor:
    weights, chosen = gates.max(-1)
    out = torch.zeros_like(h)
    for i, expert in enumerate(m.experts):
        mask = chosen == i
        out[mask] = expert(h[mask]) * weights[mask].unsqueeze(-1)
    return out


def experts_added(m: Any, h: Tensor, gates: Tensor) -> Tensor:
    flat, weights = h.flatten(0, 1), gates.flatten(0, 1)
    out = torch.zeros_like(flat)
    for i, expert in enumerate(m.experts):
        (rows,) = torch.where(weights[:, i] > 0.2)
        out.index_add_(0, rows, expert(flat[rows]) * weights[rows, i, None])
    return out.view_as(h)


class CrossedExperts(nn.Module):
    """Units of the best expert meet those of the best two, whose places are more: they have one order for all."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.router, self.other, self.out = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(8, 2)
        self.up, self.down = nn.Parameter(torch.randn(4, 2, 7)), nn.Parameter(torch.randn(4, 7, 8))
        self.shift = nn.Parameter(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x).flatten(0, 1)
        first, second = self.router(h), self.other(h)
        best = first.argmax(-1)
        met = torch.einsum("nkf,nkfd->nd", self.up[best], self.down[first.topk(2).indices])
        return self.out(met + self.shift[best] * self.shift[second.argmax(-1)])


MIXTURES = {
    "all experts": Case(lambda: Experts(experts_all), TOKENS, "6 4 28/4"),
    "looked up": Case(lambda: Experts(experts_looked_up), TOKENS, "6 4 28/4"),
    "two lookups that must agree": Case(lambda: Experts(experts_first_and_second), TOKENS, "6 4 7"),
    "the best": Case(lambda: Experts(experts_best), TOKENS, "6 4 28/4"),
    "scattered": Case(lambda: Experts(experts_scattered), TOKENS, "6 4 28/4"),
    "crossed": Case(CrossedExperts, TOKENS, "6 4 7 8"),
    "modules, stacked": Case(lambda: Experts(experts_stacked, modules=True), TOKENS, "6 7 7 7 7"),
    "modules, masked": Case(lambda: Experts(experts_masked, modules=True), TOKENS, "6 7 7 7 7"),
    "modules, added": Case(lambda: Experts(experts_added, modules=True), TOKENS, "6 7 7 7 7"),
}

ALL = {
    f"{family}: {name}": case
    for family, cases in {
        "convolutions": CONVOLUTIONS,
        "norms": NORMS,
        "activations": ACTIVATIONS,
        "shapes": SHAPES,
        "attention": ATTENTION,
        "recurrent": RECURRENT,
        "mixtures": MIXTURES,
    }.items()
    for name, case in cases.items()
}
