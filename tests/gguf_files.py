"""Tiny GGUF files, written with llama.cpp's own package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
NAMES_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    file: Path,
    *,
    leave_out: str = "",
    scaling: str = "",
) -> Path:
    """Write a Llama with a byte-level tokenizer as llama.cpp's converter does, with float32 weights.

    tokenizer: must have BOS and EOS tokens. leave_out: the name in the file of a tensor to leave out.
    scaling: of the rotary embedding, by its name in the metadata. Skips the test if the package is missing.
    """
    gguf = pytest.importorskip("gguf", reason="pip install -e '.[gguf]'")
    config = lm.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].__getitem__)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])  # control, normal
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    for name, tensor in lm.state_dict().items():
        if not (name == "lm_head.weight" and config.tie_word_embeddings) and _in_file(name) != leave_out:
            writer.add_tensor(_in_file(name), _permuted(name, tensor, lm).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _in_file(name: str) -> str:
    """The name that llama.cpp gives to a tensor of transformers."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES_IN_LAYER[rest.removesuffix('.weight')]}.weight"


def _permuted(name: str, tensor: Tensor, lm: PreTrainedModel) -> Tensor:
    """llama.cpp rotates neighbouring rows of a head, transformers its two halves."""
    heads = {"q_proj": lm.config.num_attention_heads, "k_proj": lm.config.num_key_value_heads}
    for part, count in heads.items():
        if part in name:
            halves = tensor.reshape(count, 2, tensor.shape[0] // count // 2, -1)
            return halves.swapaxes(1, 2).reshape(tensor.shape).contiguous()
    return tensor.contiguous()
