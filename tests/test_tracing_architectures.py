"""Real architectures: those of transformers, with random weights, and networks in the style of torchvision.

Expected groups are written as in `traced_models`: the residual stream first, then layer by layer heads (or experts) as
blocks, what moves within them, and hidden units.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import models
import vision_models
from rebasin_fast import PermutationSpec, activation_matching, apply_permutation, random_permutation
from rebasin_fast.block_matching import match_blocks
from test_tracing import groups_of

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    yield
    torch.set_num_threads(threads)


class Doubles(TorchFunctionMode):
    """Computes in float64 what models compute in float32 whatever they are given: there it is rounding that changes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        if func is Tensor.float:
            return args[0].double()
        return func(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


class Logits(nn.Module):
    """The model, with logits for its one output: others, such as an encoder's last state, would be frozen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.model(**inputs).logits


TOKENS = {"input_ids": torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])}
PAIRS = TOKENS | {"decoder_input_ids": torch.tensor([[2, 7, 1, 8], [1, 4, 1, 4]])}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 24}
TEXT = LAYERS | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = TEXT | {"num_key_value_heads": 2}


def image(size: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).double()}


TRANSFORMERS: dict[str, tuple[str, dict[str, Any], dict[str, Tensor], str]] = {
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
        TOKENS,
        "16" + 2 * " 4 16/4 16/4 64",  # heads, queries and keys, values, hidden units
    ),
    # Queries within a group of heads; rotary positions freeze queries and keys; values; hidden units.
    "LlamaForCausalLM": ("LlamaConfig", GROUPED, TOKENS, "16" + 2 * " 2 4/2 8/2 24"),
    "MistralForCausalLM": ("MistralConfig", GROUPED, TOKENS, "16" + 2 * " 2 4/2 8/2 24"),
    "MixtralForCausalLM": (  # four experts of 24 hidden units
        "MixtralConfig", GROUPED | {"num_local_experts": 4}, TOKENS, "16" + 2 * " 2 4/2 8/2 4 96/4",
    ),
    "BertForMaskedLM": ("BertConfig", TEXT, TOKENS, "16" + 2 * " 4 16/4 16/4 24"),
    "ViTForImageClassification": (
        "ViTConfig", LAYERS | {"image_size": 16, "patch_size": 4}, image(16), "16" + 2 * " 4 16/4 16/4 24",
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"vocab_size": 50, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4},
        PAIRS,
        # Encoder and decoder share embeddings, so one stream; relative positions are computed once for all layers, so
        # one order of heads for the encoder, one for the decoder, and one for each attention across.
        "16 4 4 4 4" + 2 * " 16/4 16/4 24" + 2 * " 16/4 16/4 16/4 16/4 24",
    ),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {
            "vocab_size": 50, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 8,
            "max_source_positions": 10, "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2, "decoder_start_token_id": 1,
        },
        {"input_features": torch.randn(2, 8, 20).double(), "decoder_input_ids": PAIRS["decoder_input_ids"]},
        # The first convolution, the streams of encoder and decoder.
        "16 16 16" + 2 * " 4 16/4 16/4 24" + 2 * " 4 16/4 16/4 4 16/4 16/4 24",
    ),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]},
        image(32),
        "8 16" + " 2 2" + 2 * " 4 4",
    ),
    # Fused projections taken apart by constant indices.
    "FalconForCausalLM": (
        "FalconConfig",
        TEXT | {"num_kv_heads": 2, "new_decoder_architecture": True, "ffn_hidden_size": 24},
        TOKENS,
        "16" + 2 * " 2 4/2 8/2 24",
    ),
    # A stream that is looked at for its shape only.
    "BartForConditionalGeneration": (
        "BartConfig",
        {
            "vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
        },
        PAIRS,
        "16" + " 4 16/4 16/4 24" + " 4 16/4 16/4 4 16/4 16/4 24",
    ),
    # Pooling over positions alone.
    "FunnelForMaskedLM": (
        "FunnelConfig",
        {"vocab_size": 50, "block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 16, "n_head": 4, "d_head": 4,
         "d_inner": 24},
        TOKENS,
        "16" + 3 * " 4 16/4 16/4 24",
    ),
    # Padding that cuts off; the states of all layers in one tensor, so one order of the units of attention.
    "RwkvForCausalLM": (
        "RwkvConfig",
        LAYERS | {"vocab_size": 50, "attention_hidden_size": 16, "context_length": 16},
        TOKENS,
        "16 16" + 2 * " 24",
    ),
    # Two choices of experts, joined.
    "PhimoeForCausalLM": (
        "PhimoeConfig", GROUPED | {"num_local_experts": 4}, TOKENS, "16" + 2 * " 2 4/2 8/2 4 96/4",
    ),
    # A latent for queries, one for keys and values; parts of a head without and with rotation.
    "DeepseekV3ForCausalLM": (
        "DeepseekV3Config",
        TEXT | {
            "num_key_value_heads": 4, "q_lora_rank": 10, "kv_lora_rank": 6, "qk_rope_head_dim": 2,
            "qk_nope_head_dim": 4, "v_head_dim": 5, "first_k_dense_replace": 2,
        },
        TOKENS,
        "16" + 2 * " 10 6 4 16/4 20/4 24",
    ),
    "MambaForCausalLM": (
        "MambaConfig",
        {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "expand": 2,
         "time_step_rank": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        TOKENS,
        "16" + 2 * " 32 4 3",
    ),
    # A check on the longest input decides the way.
    "FlaubertWithLMHeadModel": (
        "FlaubertConfig",
        {"vocab_size": 50, "emb_dim": 16, "n_layers": 2, "n_heads": 4, "n_langs": 1, "max_position_embeddings": 32,
         "pad_index": 0},
        TOKENS,
        "16" + 2 * " 4 16/4 16/4 64",
    ),
    # Positions that are no part of the state dict freeze the stream; a least number of float64 made on the way.
    "XGLMForCausalLM": (
        "XGLMConfig",
        {"vocab_size": 50, "d_model": 16, "num_layers": 2, "attention_heads": 4, "ffn_dim": 24,
         "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        TOKENS,
        2 * " 4 16/4 16/4 24",
    ),
    # A stream that grouped convolution takes apart into 2 blocks, and gates of positions into heads within them, whose
    # units they all weigh alike. Each gate is a sum of 4.
    "WavLMForCTC": (
        "WavLMConfig",
        LAYERS | {
            "conv_dim": (8, 8), "conv_stride": (2, 2), "conv_kernel": (3, 3), "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_buckets": 8, "vocab_size": 12,
            "mask_time_prob": 0.0,
        },
        {"input_values": torch.randn(2, 80, generator=torch.Generator().manual_seed(0)).double()},
        "8 8" + " 2 4/2 4" + 2 * " 16/4 16/4 4 24",
    ),
    "WavLMForCTC, masked in training": (
        "WavLMConfig",
        LAYERS | {
            "conv_dim": (8, 8), "conv_stride": (2, 2), "conv_kernel": (3, 3), "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "num_buckets": 8, "vocab_size": 12,
        },
        {"input_values": torch.randn(2, 80, generator=torch.Generator().manual_seed(0)).double()},
        "8 8" + " 2 4/2 4" + 2 * " 16/4 16/4 4 24",
    ),
    # A cached table of positions.
    "BeitForImageClassification": (
        "BeitConfig",
        LAYERS | {"image_size": 16, "patch_size": 4, "use_relative_position_bias": True},
        image(16),
        "16" + 2 * " 4 16/4 16/4 24",
    ),
    "SwinForImageClassification": (
        "SwinConfig",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4},
        image(16),
        "8" + 2 * " 2 8/2 8/2 32" + " 16 4 16/4 16/4 64",
    ),
    "ConvNextForImageClassification": (
        "ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, image(32), "8 32 16 64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str) -> None:
    config, options, inputs, groups = TRANSFORMERS[name]
    inner = getattr(transformers, name.partition(",")[0])(getattr(transformers, config)(**options))
    inner.set_experts_implementation("eager")  # the only one that computes in float64
    model = Logits(models.randomise(inner, seed=0).double().eval())
    spec = PermutationSpec.from_module(model, inputs)
    assert not spec.report().unknown_operators
    assert groups_of(spec) == Counter(groups.split())
    with Doubles():
        proof = spec.prove(model, inputs, rtol=1e-9)
    assert proof, str(proof)
    assert proof.dtype == "float64"
    planted_permutation_is_recovered(spec, model)


def planted_permutation_is_recovered(spec: PermutationSpec, model: nn.Module) -> None:
    a = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    b = apply_permutation(spec, random_permutation(spec, seed=5), a)
    found = match_blocks(spec, a, b)
    assert found.converged
    assert found.sweeps <= 2  # most often the start outward from what stays has it all
    back = apply_permutation(spec, found.permutation, b)
    for name, array in a.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_outputs_of_transformers_are_found_and_caches_are_not_among_them() -> None:
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, output_hidden_states=True
    )
    model = transformers.GPT2LMHeadModel(config)
    spec = PermutationSpec.from_module(model, TOKENS)
    # The hidden states are outputs, so the stream is frozen; keys and values in the cache are not.
    assert groups_of(spec) == Counter((2 * " 4 16/4 16/4 64").split())
    assert {axis.operator for axis in spec.report().frozen} >= {"output['hidden_states'][0]"}


# ---- torchvision's style ----------------------------------------------------------------------------------------

VISION: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ResNet": (vision_models.ResNet, "6 8 12" + " 4 4 4 4 8 8"),
    "ResNeXt": (lambda: vision_models.ResNet(groups=2), "6 8 12" + 2 * " 2 4/2 4/2" + " 2 8/2 8/2"),
    "VGG": (vision_models.VGG, "6 8 10 11"),
    "MobileNet": (vision_models.MobileNet, "6 4 12 8 24 20"),
    "DenseNet": (vision_models.DenseNet, "6" + 3 * " 8 4" + " 7"),
    "UNet": (vision_models.UNet, "6 8 10 7 9 5"),
    "ShuffleNet": (vision_models.ShuffleNet, "4 2 2 4 4"),
}


@pytest.mark.parametrize("name", VISION)
def test_vision(name: str) -> None:
    make, groups = VISION[name]
    model = models.randomise(make(), seed=0).double().eval()
    x = image(32)["pixel_values"]
    spec = PermutationSpec.from_module(model, x)
    assert not spec.report().unknown_operators
    proof = spec.prove(model, x, rtol=1e-9)
    assert proof, str(proof)
    assert groups_of(spec) == Counter(groups.split())
    planted_permutation_is_recovered(spec, model)


def test_planted_permutation_is_recovered_through_conv1d() -> None:
    """GPT-2's dense layers have their weights as (inputs, outputs), queries, keys and values in one."""
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, resid_pdrop=0.0
    )

    class OfTokens(Logits):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.model(tokens).logits

    model = OfTokens(models.randomise(transformers.GPT2LMHeadModel(config), seed=0).double().eval())
    tokens = torch.randint(0, 50, (8, 12), generator=torch.Generator().manual_seed(0))
    spec = PermutationSpec.from_module(model, tokens)
    a = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    planted = random_permutation(spec, seed=3)
    b = apply_permutation(spec, planted, a)
    found = activation_matching(spec, model, a, b, tokens.split(4))
    assert set(found.permutation) == set(spec.groups)
    back = apply_permutation(spec, found.permutation, b)
    for name, tensor in a.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0, msg=name)
