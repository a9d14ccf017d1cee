"""What a GGUF file says about its model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.models.weights import gguf_header
from tests.study.headers import gguf_bytes

TOKENS = ["<s>", "</s>", "▁é", "语言"]
VALUES: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 8192,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 1, 1],
    "tokenizer.ggml.add_bos_token": True,
}
SHAPES = {"token_embd.weight": (64, 4), "blk.0.attn_norm.weight": (64,), "blk.0.ffn_up.weight": (64, 256)}


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_is_read_back(tmp_path: Path, version: int) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf_bytes(VALUES, SHAPES, version=version) + bytes(1000))
    header = gguf_header(file)
    assert header.shapes == SHAPES
    assert header.values == {key: value for key, value in VALUES.items() if not isinstance(value, list)}


@pytest.mark.slow
def test_a_header_is_what_llama_cpps_own_package_reads(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="pip install -e '.[gguf]'")
    from tests.evaluation.tiny import BOS, make_llama, make_tokenizer
    from tests.gguf_files import write_gguf

    tokenizer = make_tokenizer()
    tokenizer.eos_token = BOS
    lm = make_llama()
    file = write_gguf(lm, tokenizer, tmp_path / "m.gguf")
    reader, header = gguf.GGUFReader(file), gguf_header(file)
    assert header.shapes == {tensor.name: tuple(tensor.shape.tolist()) for tensor in reader.tensors}
    assert sum(map(math.prod, header.shapes.values())) == lm.num_parameters()
    for key, value in header.values.items():
        assert reader.fields[key].contents() == value


def test_what_is_not_a_gguf_file(tmp_path: Path) -> None:
    whole = gguf_bytes(VALUES, SHAPES)
    file = tmp_path / "m.gguf"
    for content in (b"", b"GGUF", b"PK" + whole[2:], whole[:-1], gguf_bytes(VALUES, SHAPES, version=1)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is not a GGUF file of version 2 or 3"):
            gguf_header(file)
    with pytest.raises(ValueError, match="is not a GGUF file"):
        gguf_header(tmp_path)


@given(st.binary(max_size=80), st.integers(0, 200))
def test_any_damage_is_a_value_error(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    whole = gguf_bytes(VALUES, SHAPES)
    file = tmp_path_factory.getbasetemp() / "damaged.gguf"
    file.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        gguf_header(file)
    except ValueError:
        return
