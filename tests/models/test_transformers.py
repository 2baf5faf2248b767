"""Small transformers configurations with random weights: match eager, all native, any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import leptonc

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.numba

_TEXT = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 37, "max_position_embeddings": 64,
}  # fmt: skip
_IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
_GQA = _TEXT | {"num_key_value_heads": 2}
_T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
_BART = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
}  # fmt: skip
_WHISPER = _BART | {
    "num_mel_bins": 16, "max_source_positions": 50, "max_target_positions": 20, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip

# name -> (model class, configuration class, configuration, which inputs)
_FAST: Mapping[str, tuple[str, str, dict[str, Any], str]] = {
    "bert": ("BertModel", "BertConfig", _TEXT, "text"),
    "bert-eager": ("BertModel", "BertConfig", _TEXT | {"attn_implementation": "eager"}, "text"),
    "distilbert": (
        "DistilBertModel", "DistilBertConfig",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}, "text",
    ),
    "roberta": ("RobertaModel", "RobertaConfig", _TEXT, "text"),
    "electra": ("ElectraModel", "ElectraConfig", _TEXT | {"embedding_size": 16}, "text"),
    "gpt2": (
        "GPT2LMHeadModel", "GPT2Config",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, "decoder",
    ),
    "opt": (
        "OPTForCausalLM", "OPTConfig",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "ffn_dim": 37, "max_position_embeddings": 64, "word_embed_proj_dim": 32}, "decoder",
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GQA, "decoder"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _GQA, "decoder"),
    "mistral": ("MistralForCausalLM", "MistralConfig", _GQA | {"sliding_window": 6}, "decoder"),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _GQA | {"head_dim": 8}, "decoder"),
    "t5-encoder": ("T5EncoderModel", "T5Config", _T5, "text"),
    "vit": ("ViTModel", "ViTConfig", _IMAGE, "image"),
    "clip-vision": ("CLIPVisionModel", "CLIPVisionConfig", _IMAGE, "image"),
    "whisper-encoder": ("WhisperModel", "WhisperConfig", _WHISPER, "sound"),
}  # fmt: skip
_SLOW: Mapping[str, tuple[str, str, dict[str, Any], str]] = {
    "albert": ("AlbertModel", "AlbertConfig", _TEXT | {"embedding_size": 16}, "text"),
    "mpnet": ("MPNetModel", "MPNetConfig", _TEXT, "text"),
    "deberta": (
        "DebertaV2Model", "DebertaV2Config",
        _TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
        "text",
    ),
    "modernbert": ("ModernBertModel", "ModernBertConfig", _TEXT | {"pad_token_id": 0}, "text"),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT, "decoder"),
    "bloom": (
        "BloomForCausalLM", "BloomConfig",
        {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "decoder",
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _GQA | {"head_dim": 8}, "decoder"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _GQA | {"head_dim": 8}, "decoder"),
    "phi": ("PhiForCausalLM", "PhiConfig", _TEXT, "decoder"),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _TEXT | {"pad_token_id": 0}, "decoder"),
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5, "pair"),
    "bart": ("BartModel", "BartConfig", _BART | {"max_position_embeddings": 64}, "pair"),
    "clip-text": ("CLIPTextModel", "CLIPTextConfig", _TEXT | {"eos_token_id": 98}, "text"),
    "deit": ("DeiTModel", "DeiTConfig", _IMAGE, "image"),
    "dinov2": ("Dinov2Model", "Dinov2Config", _IMAGE, "image"),
    "swin": (
        "SwinModel", "SwinConfig",
        {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
         "image_size": 32, "patch_size": 2}, "image",
    ),
}  # fmt: skip
_ALL = {**_FAST, **_SLOW}


def build(name: str) -> nn.Module:
    """Return the model, with the whisper decoder cut off."""
    model, config, options, _ = _ALL[name]
    if not hasattr(transformers, model):
        pytest.skip(f"this transformers has no {model}")
    made = getattr(transformers, model)(getattr(transformers, config)(**options)).eval()
    return made.encoder if name == "whisper-encoder" else made


def text(batch: int, length: int) -> dict[str, Tensor]:
    """Return token ids with padding behind all rows but the first."""
    ids = torch.randint(5, 90, (batch, length))
    ends = torch.randint(1, length + 1, (batch, 1))
    ends[0] = length
    return {"input_ids": ids, "attention_mask": (torch.arange(length) < ends).long()}


def example(form: str) -> dict[str, Any]:
    """Return keyword arguments of a kind of model."""
    if form == "image":
        return {"pixel_values": torch.randn(2, 3, 32, 32)}
    if form == "sound":
        return {"input_features": torch.randn(1, 16, 100)}
    given: dict[str, Any] = text(2, 12)
    if form == "pair":
        given["decoder_input_ids"] = torch.randint(5, 90, (2, 5))
    return given if form == "text" else given | {"use_cache": False}


def compare(got: Any, want: Any) -> None:
    """Compare results of one structure; largest error relative to the largest element."""
    assert type(got) is type(want)
    pairs = zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True)
    for g, w in [p for p in pairs if isinstance(p[1], Tensor)]:
        assert g.shape == w.shape and g.dtype == w.dtype
        assert float((g - w).abs().max()) <= 1e-5 * float(w.abs().max())


@pytest.mark.parametrize(
    "name", [*_FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in _SLOW)]
)
def test_matches_eager_and_runs_natively(name: str) -> None:
    net, inputs = build(name), example(_ALL[name][3])
    compiled = leptonc.compile(net, inputs, threads=1, cache=False)
    compare(compiled(**inputs), net(**inputs))
    assert compiled.stats["ops_torch"] == 0, [u for u in compiled.schedule.units if u.torch_ops]


_BATCH, _LENGTH = Dim("batch", min=1, max=8), Dim("length", min=2, max=60)


@pytest.mark.parametrize("name", ["bert", "llama", "mistral"])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "auto"])
def test_any_size_without_compiling_again(name: str, declared: bool) -> None:
    net, inputs = build(name), example(_ALL[name][3])
    axes = {k: {0: _BATCH, 1: _LENGTH} for k, v in inputs.items() if isinstance(v, Tensor)}
    compiled = leptonc.compile(
        net, inputs, dynamic=axes if declared else "auto", threads=1, cache=False
    )
    constants = None
    for batch, length in ((2, 12), (3, 7), (5, 33), (2, 60), (8, 2), (4, 12)):
        given = inputs | text(batch, length)
        compare(compiled(**given), net(**given))
        pool = compiled.specializations[0].pool
        constants = constants or len(pool.arrays)
    assert len(compiled.specializations) == 1
    assert len(pool.arrays) == constants  # packed once, whatever the sizes
