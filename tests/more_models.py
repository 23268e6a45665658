"""Architectures in everyday spellings, small, each with an input and the groups to be found (see `traced_models`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, parametrize

from traced_models import Apply, Case, around, seq

IMAGE = (2, 3, 16, 16)
POINTS = (3, 5)
TOKENS = (2, 7, 5)


class Inception(nn.Module):
    """Branches side by side, as in GoogLeNet and Inception."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, 4, 1)
        self.three = seq(nn.Conv2d(inputs, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 6, 3, padding=1))
        self.five = seq(nn.Conv2d(inputs, 2, 1), nn.ReLU(), nn.Conv2d(2, 5, (1, 5), padding=(0, 2)))
        self.pool = seq(nn.MaxPool2d(3, 1, 1), nn.Conv2d(inputs, 7, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Fire(nn.Module):
    """SqueezeNet's block."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.one, self.three = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.one(x).relu(), self.three(x).relu()], 1)


class MBConv(nn.Module):
    """EfficientNet's block: expansion, depthwise convolution, squeeze and excite, projection, shortcut."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = seq(nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.SiLU())
        self.deep = seq(
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.SiLU()
        )
        self.gate = seq(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(hidden, 4, 1), nn.SiLU(), nn.Conv2d(4, hidden, 1), nn.Sigmoid()
        )
        self.down = seq(nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.deep(self.up(x))
        return x + self.down(h * self.gate(h))


class SpatialGate(nn.Module):
    """CBAM: a map of where to look from mean and maximum over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.conv(seen).sigmoid()


class Mixer(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = seq(nn.Linear(tokens, 9), nn.GELU(), nn.Linear(9, tokens))
        self.channels = seq(nn.Linear(width, 10), nn.GELU(), nn.Linear(10, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.first(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.second(x))


class SpatialGating(nn.Module):
    """gMLP's block."""

    def __init__(self, tokens: int, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.LayerNorm(hidden)
        self.up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.mix = nn.Conv1d(tokens, tokens, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.up(self.norm(x))).chunk(2, -1)
        return x + self.down(u * self.mix(self.inner(v)))


class Kan(nn.Module):
    """A layer whose edges are learned functions: radial bases of every input, and weights (outputs, inputs, bases)."""

    def __init__(self, inputs: int, outputs: int, bases: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, bases))
        self.base = nn.Linear(inputs, outputs)
        self.register_buffer("centres", torch.linspace(-1, 1, bases), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x.unsqueeze(-1) - self.centres) ** 2))
        return self.base(F.silu(x)) + torch.einsum("bik,oik->bo", bumps, self.weight)


class Vae(nn.Module):
    """Reparametrised by the mean in evaluation; convolutions in, transposed convolutions out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = seq(nn.Conv2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 4, 2, 1), nn.ReLU(), nn.Flatten())
        self.mean, self.scale = nn.Linear(6 * 16, 5), nn.Linear(6 * 16, 5)
        self.expand = nn.Linear(5, 7 * 16)
        self.decoder = seq(
            nn.ConvTranspose2d(7, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        mean, scale = self.mean(h), self.scale(h)
        z = mean + torch.exp(0.5 * scale) * (torch.randn_like(scale) if self.training else 1.0)
        return self.decoder(self.expand(z).view(-1, 7, 4, 4)).tanh()


class Temporal(nn.Module):
    """A block of a temporal convolutional network: causal padding cut off again, weight norm, shortcut."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.one = parametrizations.weight_norm(nn.Conv1d(inputs, outputs, 3, padding=self.cut, dilation=dilation))
        self.two = parametrizations.weight_norm(nn.Conv1d(outputs, outputs, 3, padding=self.cut, dilation=dilation))
        self.side = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)[:, :, : -self.cut].contiguous().relu()
        h = self.two(h)[..., : -self.cut].relu()
        return (h + (x if self.side is None else self.side(x))).relu()


class GraphNet(nn.Module):
    """Graph convolution and graph attention over a dense adjacency, given by the inputs' first columns."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 6)
        self.project, self.scores = nn.Linear(6, 3 * 4, bias=False), nn.Parameter(torch.randn(3, 8))
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        adjacency = torch.softmax(x @ x.mT, -1)
        h = adjacency @ self.two(torch.relu(adjacency @ self.one(x)))
        z = self.project(h).unflatten(-1, (3, 4))
        left, right = (z * self.scores[:, :4]).sum(-1), (z * self.scores[:, 4:]).sum(-1)
        weights = F.leaky_relu(left.unsqueeze(2) + right.unsqueeze(1), 0.2).softmax(2)
        return self.out(F.elu(torch.einsum("bijh,bjhd->bihd", weights, z)).flatten(2))


class Perceiver(nn.Module):
    """Learned queries that look at the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.inp = nn.Parameter(torch.randn(6, 12)), nn.Linear(5, 10)
        self.cross = nn.MultiheadAttention(12, 3, kdim=10, vdim=10, batch_first=True)
        self.norm, self.self_ = nn.LayerNorm(12), nn.MultiheadAttention(12, 2, batch_first=True)
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        z = self.latents.expand(len(x), -1, -1)
        z = z + self.cross(self.norm(z), h, h)[0]
        z = z + self.self_(z, z, z, need_weights=False)[0]
        return self.out(z.mean(1))


class Translator(nn.Module):
    """An LSTM that reads, one that writes step by step, and additive attention between them."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.bridge, self.writer = nn.Linear(12, 8), nn.LSTMCell(5 + 12, 8)
        self.query, self.key, self.score = nn.Linear(8, 7), nn.Linear(12, 7, bias=False), nn.Linear(7, 1)
        self.out = nn.Linear(8 + 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        read, (last, _) = self.reader(x)
        h = torch.tanh(self.bridge(last.transpose(0, 1).flatten(1)))
        c = torch.zeros_like(h)
        steps = []
        for t in range(3):
            weights = self.score(torch.tanh(self.query(h).unsqueeze(1) + self.key(read))).softmax(1)
            seen = (weights * read).sum(1)
            h, c = self.writer(torch.cat([x[:, t], seen], -1), (h, c))
            steps.append(self.out(torch.cat([h, seen], -1)))
        return torch.stack(steps, 1)


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 4)
        self.biases = nn.ParameterList([nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(5))])

    def forward(self, x: Tensor) -> Tensor:
        z = self.two(torch.relu(self.one(x)))
        return F.linear(
            torch.relu(F.linear(z, self.two.weight.t(), self.biases[0])), self.one.weight.t(), self.biases[1]
        )


class FourierFilter(nn.Module):
    """GFNet: a learned filter for every frequency and channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(4, 3, width, 2))
        self.norm, self.mlp = nn.LayerNorm(width), seq(nn.Linear(width, 10), nn.GELU(), nn.Linear(10, width))

    def forward(self, x: Tensor) -> Tensor:  # (batch, 4, 4, width)
        f = torch.fft.rfft2(self.norm(x), dim=(1, 2), norm="ortho") * torch.view_as_complex(self.filter)
        return x + self.mlp(torch.fft.irfft2(f, s=(4, 4), dim=(1, 2), norm="ortho"))


class FourierOperator(nn.Module):
    """FNO: complex weights between channels, for the lowest frequencies."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs, 3, dtype=torch.cfloat))
        self.skip = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        f = torch.fft.rfft(x)
        out = torch.zeros(len(x), self.outputs, f.shape[-1], dtype=f.dtype)
        out[:, :, :3] = torch.einsum("bix,iox->box", f[:, :, :3], self.weight.to(f.dtype))
        return torch.fft.irfft(out, n=x.shape[-1]) + self.skip(x)


class WindowAttention(nn.Module):
    """Swin: windows by reshapes as einops makes them, cyclic shifts, a table of relative positions."""

    def __init__(self, width: int = 12, heads: int = 3, window: int = 2) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = (grid[:, :, None] - grid[:, None]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", apart[..., 0] * (2 * window - 1) + apart[..., 1])

    def forward(self, x: Tensor) -> Tensor:  # (batch, rows, columns, width)
        b, h, w, c = x.shape
        s = self.window
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.reshape(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        q, k, v = self.qkv(y).reshape(-1, s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(s * s, s * s, -1).permute(2, 0, 1)
        y = ((q @ k.mT * 0.5 + bias).softmax(-1) @ v).transpose(1, 2).reshape(-1, s * s, c)
        y = self.proj(y).reshape(b, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return x + torch.roll(y, (1, 1), (1, 2))


class ShuffleByIndex(nn.Module):
    """Channels shuffled by a table, as exported models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 8, 1, groups=4)
        self.d = nn.Conv2d(8, 2, 1)
        self.register_buffer("order", torch.arange(8).view(2, 4).t().flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.b(self.a(x))[:, self.order]).relu())


class FilmNet(nn.Module):
    """Channels scaled and shifted by another input's embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.film = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Linear(3, 16)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.film(x.mean((2, 3))).chunk(2, -1)
        return self.out(torch.addcmul(shift[..., None, None], self.conv(x), 1 + scale[..., None, None]).relu())


class ValueBranch(nn.Module):
    """Which way it goes depends on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.mid, self.out = nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x).relu()
        if h.abs().max() > 1e-6:
            h = h + self.mid(h).relu()
        for _ in range(int((x.abs().sum() > 0).item()) + 1):
            h = h + 0.1 * self.mid(h)
        return self.out(h)


def old_weight_norm() -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = torch.nn.utils.weight_norm
        return seq(wrapped(nn.Linear(5, 8)), nn.ReLU(), wrapped(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 2))


def old_spectral_norm() -> nn.Module:
    wrapped = torch.nn.utils.spectral_norm
    return seq(wrapped(nn.Linear(5, 8)), nn.ReLU(), wrapped(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 2))


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT


def parametrised(how: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        inner = nn.Linear(8, 8)
        how(inner)
        return seq(nn.Linear(5, 8), nn.ReLU(), inner, nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))

    return make


def _gan() -> nn.Module:
    def up(i: int, o: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    first = [nn.Unflatten(1, (5, 1, 1)), nn.ConvTranspose2d(5, 8, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    generator = seq(*first, *up(8, 6), nn.ConvTranspose2d(6, 3, 4, 2, 1), nn.Tanh())
    judge = seq(
        nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 7, 4, 2, 1), nn.InstanceNorm2d(7, affine=True)
    )
    return seq(generator, judge, nn.LeakyReLU(0.2), nn.Conv2d(7, 1, 4), nn.Flatten())


def _patched(*blocks: nn.Module) -> nn.Module:
    """Patches of an image as tokens (batch, 16, 12) around blocks."""
    stem = seq(nn.Conv2d(3, 12, 4, 4), nn.Flatten(2))
    return Apply(
        lambda m, x: m.head(m.norm(m.blocks(m.stem(x).transpose(1, 2))).mean(1)),
        stem=stem, blocks=seq(*blocks), norm=nn.LayerNorm(12), head=nn.Linear(12, 2),
    )  # fmt: skip


def _on_grid(*blocks: nn.Module) -> nn.Module:
    return Apply(
        lambda m, x: m.head(m.blocks(m.stem(x).permute(0, 2, 3, 1)).mean((1, 2))),
        stem=nn.Conv2d(3, 12, 4, 4), blocks=seq(*blocks), head=nn.Linear(12, 2),
    )  # fmt: skip


def _pieces(m: Any, x: Tensor) -> Tensor:
    """Heads as einops' rearrange makes them: "b t (h d) -> (b h) t d", and back."""
    b, t, _ = x.shape
    h = m.inp(x)
    q, k, v = (layer(h).reshape(b, t, 3, 4).permute(0, 2, 1, 3).reshape(b * 3, t, 4) for layer in (m.q, m.k, m.v))
    out = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) / 2, -1), v)
    return m.out(h + m.proj(out.reshape(b, 3, t, 4).permute(0, 2, 1, 3).reshape(b, t, 12)))


def _packed(m: Any, x: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(m.inp(x), [7, 4], batch_first=True)
    return m.out(nn.utils.rnn.pad_packed_sequence(m.core(packed)[0], batch_first=True)[0])


def _with_time(m: Any, x: Tensor) -> Tensor:
    """Euler's steps of a neural differential equation that is told the time beside its state."""
    h = m.inp(x)
    for step in range(3):
        time = torch.full_like(h[:, :1], step / 3)
        h = h + m.back(torch.tanh(m.hidden(torch.cat([h, time], 1)))) / 3
    return m.out(h)


def _partly(m: Any, x: Tensor) -> Tensor:
    h = m.inp(x)
    h[:, :3] = m.part(h[:, :3])
    return m.out(torch.relu(h))


def _involution(m: Any, x: Tensor) -> Tensor:
    """Kernels for each position and group of channels, made from all channels."""
    h = torch.relu(m.inp(x))
    b, _, rows, columns = h.shape
    kernels = m.kernel(h).view(b, 2, 1, 9, rows, columns)
    patches = F.unfold(h, 3, padding=1).view(b, 2, 4, 9, rows, columns)
    return m.out((kernels * patches).sum(3).view(b, 8, rows, columns))


def _transformed(m: Any, x: Tensor) -> Tensor:
    """Spatial transformer."""
    h = m.inp(x)
    where = F.affine_grid(m.where(h.mean((2, 3))).view(-1, 2, 3), list(h.shape), align_corners=False)
    return m.out(F.grid_sample(h, where, align_corners=False))


def _convolved(**layers: nn.Module) -> Callable[[Callable[[Any, Tensor], Tensor]], nn.Module]:
    return lambda function: Apply(function, inp=nn.Conv2d(3, 8, 1), out=nn.Conv2d(8, 2, 1), **layers)


def _quantised(m: Any, x: Tensor) -> Tensor:
    """Activations rounded to one grid for all, weights to one for each channel, as in training for integers."""
    h = torch.fake_quantize_per_tensor_affine(m.inp(x).float(), 0.1, 0, -128, 127).to(x.dtype)
    scales, offsets = m.scale.weight.float().abs(), torch.zeros(7, dtype=torch.int32)
    weight = torch.fake_quantize_per_channel_affine(m.mid.weight.float(), scales, offsets, 0, -128, 127)
    return m.out(F.linear(h, weight.to(x.dtype)).relu())


def _with_losses(m: Any, x: Tensor) -> Tensor:
    """What is told to nobody but the optimiser stands beside the outputs."""
    first, second = m.a(x), m.b(x)
    each = F.smooth_l1_loss(first, second, reduction="none").mean(-1, keepdim=True)
    return m.out(first * second) + each + F.mse_loss(first, second) + F.huber_loss(first, second, reduction="sum")


class NoTokens(nn.Module):
    """A number of tokens that happens to be none: parameters without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.inp, self.out = nn.Parameter(torch.empty(1, 0, 12)), nn.Linear(5, 12), nn.Linear(12, 2)
        self.extra = nn.Parameter(torch.empty(0, 12))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.tokens.expand(len(x), -1, -1), self.inp(x)], 1)
        return self.out(torch.cat([h, F.linear(h, self.extra)], -1).relu())


_causal = nn.Transformer.generate_square_subsequent_mask

MORE = {
    "Inception": Case(
        lambda: seq(nn.Conv2d(3, 8, 3), nn.ReLU(), Inception(8), Inception(22), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                    nn.Linear(22, 2)),
        IMAGE, "8" + 2 * " 4 3 6 2 5 7",
    ),
    "SqueezeNet": Case(
        lambda: seq(nn.Conv2d(3, 8, 3), nn.ReLU(), Fire(8, 3, 4), nn.MaxPool2d(2), Fire(8, 2, 5), nn.Conv2d(10, 2, 1)),
        IMAGE, "8 3 4 4 2 5 5",
    ),
    "EfficientNet": Case(
        lambda: seq(nn.Conv2d(3, 8, 3), MBConv(8, 12), MBConv(8, 16), nn.Conv2d(8, 2, 1)), IMAGE, "8 12 4 16 4"
    ),
    "CBAM": Case(lambda: seq(nn.Conv2d(3, 8, 3), SpatialGate(), nn.Conv2d(8, 2, 1)), IMAGE, "8"),
    "MLP-Mixer": Case(lambda: _patched(Mixer(16, 12), Mixer(16, 12)), IMAGE, "12" + 2 * " 9 10"),
    "gMLP": Case(lambda: _patched(SpatialGating(16, 12, 10)), IMAGE, "12 10"),
    "KAN": Case(lambda: seq(Kan(5, 8), Kan(8, 6), Kan(6, 2)), POINTS, "8 6"),
    "VAE": Case(Vae, IMAGE, "4 6 5 7 8"),
    "GAN": Case(_gan, POINTS, "8 6 3 4 7"),
    "TCN": Case(
        lambda: seq(Temporal(3, 8, 1), Temporal(8, 8, 2), nn.Conv1d(8, 2, 1)), (2, 3, 20), "8 8 8"
    ),
    "graph network": Case(GraphNet, TOKENS, "8 6 3 12/3"),
    "Perceiver": Case(Perceiver, TOKENS, "12 10 3 12/3 12/3 2 12/2 12/2"),
    "seq2seq": Case(Translator, TOKENS, "6 6 8 7"),
    "tied autoencoder": Case(TiedAutoencoder, POINTS, "8 4"),
    "Fourier filters": Case(lambda: _on_grid(FourierFilter(12)), IMAGE, "12 10"),
    "Fourier operator": Case(
        lambda: seq(nn.Conv1d(3, 6, 1), FourierOperator(6, 8), nn.GELU(), nn.Conv1d(8, 2, 1)), (2, 3, 10), "6 8"
    ),
    "shifted windows": Case(lambda: _on_grid(WindowAttention(), WindowAttention()), IMAGE, "12" + 2 * " 3 12/3 12/3"),
    "channel shuffle by index": Case(ShuffleByIndex, IMAGE, "2 8/2 4 8/4"),
    "FiLM": Case(FilmNet, IMAGE, "8"),
    "heads beside the batch": Case(
        lambda: Apply(
            _pieces, inp=nn.Linear(5, 12), q=nn.Linear(12, 12), k=nn.Linear(12, 12), v=nn.Linear(12, 12),
            proj=nn.Linear(12, 12), out=nn.Linear(12, 2),
        ),
        TOKENS, "12 3 12/3 12/3",
    ),
    "fake quantisation": Case(
        lambda: Apply(
            _quantised, inp=nn.Linear(5, 12), mid=nn.Linear(12, 7), scale=nn.LayerNorm(7), out=nn.Linear(7, 2)
        ),
        POINTS, "12 7",
    ),
    "losses": Case(
        lambda: Apply(_with_losses, a=nn.Linear(5, 8), b=nn.Linear(5, 8), out=nn.Linear(8, 2)), POINTS, "8"
    ),
    "no tokens": Case(NoTokens, TOKENS, "12"),
    "a branch on a value": Case(ValueBranch, POINTS, "12"),
    "weight norm, old": Case(old_weight_norm, POINTS, "8 6"),
    "spectral norm, old": Case(old_spectral_norm, POINTS, "8 6"),
    "orthogonal": Case(parametrised(lambda m: parametrizations.orthogonal(m)), POINTS, "8 6"),
    "symmetric": Case(
        parametrised(lambda m: parametrize.register_parametrization(m, "weight", Symmetric())), POINTS, "6"
    ),
    "bilinear": Case(lambda: around(lambda m, h: m.pair(h, torch.tanh(m.side(h))), pair=nn.Bilinear(12, 7, 6),
                                    side=nn.Linear(12, 7), after=6), POINTS, "12 7 6"),
    "nn.Transformer": Case(
        lambda: Apply(
            lambda m, x: m.out(m.core(m.inp(x), m.inp(x[:, :4]), tgt_mask=_causal(4))),
            inp=nn.Linear(5, 12), out=nn.Linear(12, 2),
            core=nn.Transformer(12, 2, 1, 1, 10, batch_first=True),
        ),
        TOKENS, "12 2 12/2 12/2 10 2 12/2 12/2 2 12/2 12/2 10",
    ),
    "packed sequences": Case(
        lambda: Apply(_packed, inp=nn.Linear(5, 8), core=nn.GRU(8, 6, batch_first=True), out=nn.Linear(6, 2)),
        TOKENS, "8 6",
    ),
    "time beside the state": Case(
        lambda: Apply(_with_time, inp=nn.Linear(5, 8), hidden=nn.Linear(9, 6), back=nn.Linear(6, 8),
                      out=nn.Linear(8, 2)),
        POINTS, "8 6",
    ),
    "a part written in place": Case(  # FasterNet's partial convolution
        lambda: _convolved(part=nn.Conv2d(3, 3, 3, padding=1))(_partly), IMAGE, "3 5",
    ),
    "involution": Case(lambda: _convolved(kernel=nn.Conv2d(8, 18, 1))(_involution), IMAGE, "2 8/2"),
    "spatial transformer": Case(lambda: _convolved(where=nn.Linear(8, 6))(_transformed), IMAGE, "8"),
    "grouped and dense beside one another": Case(  # weights from the blocks to the blocks
        lambda: _convolved(grouped=nn.Conv2d(8, 8, 1, groups=2), dense=nn.Conv2d(8, 8, 1))(
            lambda m, x: m.out(torch.relu(m.grouped(m.inp(x)) + m.dense(m.inp(x))) + m.inp(x))
        ),
        IMAGE, "2 8/2",
    ),
    "group norm over a concatenation": Case(  # groups of 4: two of one part, one of two, one of a rest
        lambda: Apply(
            lambda m, x: m.out(torch.relu(m.norm(torch.cat([m.a(x), m.b(x), m.c(x)], 1)))),
            a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 3, 1), c=nn.Conv2d(3, 5, 1), norm=nn.GroupNorm(4, 16),
            out=nn.Conv2d(16, 2, 1),
        ),
        IMAGE, "2 8/2 3 4",
    ),
}  # fmt: skip
