"""Loading what a run trains: where from, with what attention and dropout, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from study.errors import JobError
from study.jobs.resources import Resources
from study.jobs.specs import ARCHITECTURES, Hyperparameters, Scratch, Source, TrainSpec
from tests.evaluation.tiny import BOS, make_gemma2, make_llama, make_tokenizer, save
from tests.gguf_files import write_gguf
from training import checks, scratch
from training.data.wordlevel import cldr_tokenizer
from training.engine import dropout
from training.model import load

ROWS = Source("local", "/rows.jsonl", "0" * 12)
IDS = torch.arange(1, 49)[None]


def tokenizer_with_ends() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = BOS
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_llama(), tokenizer_with_ends(), tmp_path_factory.mktemp("llama"))


def load_from(path: Path, hyper: dict[str, Any] | None = None, **resources: Any) -> PreTrainedModel:
    chosen = Hyperparameters(**{"dtype": "fp32", **(hyper or {})})
    spec = TrainSpec(Source("local", str(path), "0" * 12), ROWS, chosen)
    return load(spec, str(path), Resources(**resources))[0]


def hidden(lm: PreTrainedModel) -> torch.Tensor:
    actual: torch.Tensor = lm.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state
    return actual


# where from


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_folder_in_the_dtype_of_the_training(folder: Path, dtype: str, torch_dtype: torch.dtype) -> None:
    lm = load_from(folder, {"dtype": dtype})
    for name, tensor in make_llama().state_dict().items():
        assert torch.equal(lm.state_dict()[name], tensor.to(torch_dtype)), name
    assert lm.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path: Path) -> None:
    lm, tokenizer = make_llama(), tokenizer_with_ends()
    file = write_gguf(lm, tokenizer, tmp_path / "m.gguf")
    spec = TrainSpec(Source("local", str(file), "0" * 12), ROWS, Hyperparameters(dtype="fp32"))
    actual, its_tokenizer = load(spec, str(file), Resources())
    for name, tensor in lm.state_dict().items():
        assert torch.equal(actual.state_dict()[name], tensor), name
    # its metadata are in float32
    torch.testing.assert_close(hidden(actual), hidden(lm), rtol=1e-5, atol=1e-5)
    text = f"Hello A{BOS}é"
    assert its_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert its_tokenizer.eos_token == tokenizer.eos_token
    actual.save_pretrained(tmp_path / "exported")
    assert "quantization_config" not in json.loads((tmp_path / "exported" / "config.json").read_text())


def test_a_gguf_file_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    file = write_gguf(
        make_llama(), tokenizer_with_ends(), tmp_path / "m.gguf", leave_out="blk.1.ffn_up.weight"
    )
    with pytest.raises(JobError, match=r"lacks 1 of its weights \(model.layers.1.mlp.up_proj.weight\): give"):
        load_from(file)


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_what_reads_gguf_files_is_named_when_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(JobError) as caught:
        load_from(Path("/nowhere/m.gguf"))
    assert str(caught.value) == (
        f"cannot load the model /nowhere/m.gguf: GGUF files are read with the package {package}; "
        "pip install -e '.[gguf]'"
    )


def nothing(folder: Path) -> None:
    shutil.rmtree(folder)


def a_pickle_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(make_llama().state_dict(), folder / "pytorch_model.bin")


def half_a_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def code_of_its_own(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise AssertionError('code from outside was run')")


def another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (nothing, "cannot load the model"),
        (a_pickle_alone, "cannot load the model .* no file named model.safetensors"),
        (half_a_file, "cannot load the model .* header"),
        (code_of_its_own, "cannot load the model .* custom code"),
        (another_shape, r"lacks 9 of its weights \(model.layers.2.*, \.\.\.\): give a complete"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(
    folder: Path, tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    copy = tmp_path / "m"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(JobError, match=complaint) as caught:
        load_from(copy)
    assert "\n" not in str(caught.value)


# built from nothing


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_untrained_model_follows_from_shape_and_seed(architecture: str) -> None:
    shape, tokenizer = Scratch(architecture=architecture, hidden_size=32, num_heads=4), cldr_tokenizer(["en"])
    one, same, other = (
        scratch.build_from(scratch.config_for(shape, tokenizer), seed=seed, attention="sdpa")
        for seed in (0, 0, 1)
    )
    assert one.config.model_type == architecture
    assert one.dtype == torch.float32
    assert torch.equal(hidden(one), hidden(same))
    assert not torch.equal(hidden(one), hidden(other))
    assert len(tokenizer) == one.config.vocab_size
    untied = Scratch(architecture=architecture, hidden_size=32, num_heads=4, tie_word_embeddings=False)
    apart = scratch.build_from(scratch.config_for(untied, tokenizer), seed=0, attention="sdpa")
    assert apart.num_parameters() - one.num_parameters() == 32 * len(tokenizer)


def test_an_architectures_particulars_are_there_at_this_size() -> None:
    """Each changes what the model computes on a sequence of 48 tokens, and Llama has none of them."""
    shape: dict[str, Any] = {"hidden_size": 32, "num_heads": 4, "initializer_range": 0.5}
    tokenizer = cldr_tokenizer(["en"])

    def changed(architecture: str, **values: Any) -> bool:
        config = scratch.config_for(Scratch(architecture=architecture, **shape), tokenizer)
        before = scratch.build_from(config, seed=0, attention="eager")(input_ids=IDS).logits
        for name, value in values.items():
            setattr(config, name, value)
        after = scratch.build_from(config, seed=0, attention="eager")(input_ids=IDS).logits
        return not torch.allclose(before, after, atol=1e-5)

    assert changed("mistral", sliding_window=None)
    assert changed("gemma2", sliding_window=256)
    assert changed("gemma2", attn_logit_softcapping=None)
    assert changed("gemma2", final_logit_softcapping=None)
    assert changed("gemma2", query_pre_attn_scalar=16)
    gemma2 = scratch.config_for(Scratch(architecture="gemma2", **shape), tokenizer)
    assert gemma2.head_dim * gemma2.num_attention_heads != gemma2.hidden_size
    assert gemma2.num_key_value_heads < gemma2.num_attention_heads


# attention


def test_gemma2_keeps_its_softcap_of_attention(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """sdpa has none: what is computed must be what eager attention computes, and be said."""
    own = make_gemma2()
    own.config.attn_logit_softcapping = 0.5
    save(own, tokenizer_with_ends(), tmp_path / "m")
    with caplog.at_level(logging.WARNING, logger="training.model"):
        actual = load_from(tmp_path / "m", attention="sdpa")
    assert "Gemma2ForCausalLM has no sdpa attention, eager is used instead" in caplog.text
    eager = load_from(tmp_path / "m", attention="eager")
    assert torch.equal(hidden(actual), hidden(eager))
    for layer in eager.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    assert not torch.allclose(hidden(actual), hidden(eager), atol=1e-3)


def test_attention_is_the_one_asked_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="training.model"):
        sdpa, eager = (load_from(folder, attention=name) for name in ("sdpa", "eager"))
    assert [lm.config._attn_implementation for lm in (sdpa, eager)] == ["sdpa", "eager"]
    torch.testing.assert_close(hidden(sdpa), hidden(eager), rtol=1e-5, atol=1e-5)
    assert caplog.text == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="it may be installed")
def test_attention_that_is_not_installed(folder: Path) -> None:
    with pytest.raises(
        JobError, match=r"attention flash_attention_2 cannot be used here \(.*\): install what"
    ):
        load_from(folder, {"dtype": "bf16"}, attention="flash_attention_2")


def test_attention_that_cannot_do_what_is_asked(folder: Path) -> None:
    with pytest.raises(JobError, match="flash_attention_2 has no fp32: write dtype: bf16"):
        load_from(folder, attention="flash_attention_2")
    with pytest.raises(JobError, match="flex_attention has no dropout: write dropout: 0"):
        load_from(folder, {"dropout": 0.1}, attention="flex_attention")


# dropout

SMALL: dict[str, Any] = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}


def make_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=4))


def make_falcon() -> PreTrainedModel:
    """It reads its config in every forward pass."""
    return FalconForCausalLM(
        FalconConfig(**SMALL, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    )


def make_mpt() -> PreTrainedModel:
    """It has a config inside its config."""
    return MptForCausalLM(MptConfig(**SMALL, d_model=32, n_heads=4, n_layers=2))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (make_llama, {"attention_dropout"}),
        (make_gemma2, {"attention_dropout"}),
        (make_gpt2, {"attn_pdrop", "embd_pdrop", "resid_pdrop"}),
        (make_falcon, {"attention_dropout", "hidden_dropout"}),
        (make_mpt, {"attn_pdrop", "emb_pdrop", "resid_pdrop"}),
    ],
)
def test_dropout_is_active_in_training_alone_and_not_exported(
    tmp_path: Path, make: Callable[[], PreTrainedModel], names: set[str]
) -> None:
    original = make()
    save(original, tokenizer_with_ends(), tmp_path / "m")
    own = {place.name: place.rate for place in dropout.places(original.config)}
    assert own.keys() == names
    state = torch.get_rng_state()
    lm = load_from(tmp_path / "m", {"dropout": 0.25})
    assert torch.equal(torch.get_rng_state(), state)
    assert {place.rate for place in dropout.places(lm.config)} == {0.25}
    lm.train()
    assert not torch.equal(hidden(lm), hidden(lm))
    lm.eval()
    assert torch.equal(hidden(lm), hidden(lm))
    assert torch.equal(hidden(lm), hidden(original.eval()))
    with dropout.restored(lm):
        lm.config.save_pretrained(tmp_path / "exported")
    assert {place.rate for place in dropout.places(lm.config)} == {0.25}
    exported = AutoConfig.from_pretrained(tmp_path / "exported")
    assert {place.name: place.rate for place in dropout.places(exported)} == own


def test_none_and_zero_are_two_things(tmp_path: Path) -> None:
    lm = make_gpt2()  # 0.1 by default
    save(lm, tokenizer_with_ends(), tmp_path / "m")
    assert not torch.equal(*[hidden(load_from(tmp_path / "m").train()) for _ in range(2)])
    without = load_from(tmp_path / "m", {"dropout": 0.0}).train()
    assert torch.equal(hidden(without), hidden(without))


def test_an_architecture_without_dropout_is_refused(tmp_path: Path) -> None:
    mamba = MambaForCausalLM(MambaConfig(**SMALL, hidden_size=32, num_hidden_layers=2, state_size=4))
    save(mamba, tokenizer_with_ends(), tmp_path / "m")
    with pytest.raises(JobError, match="mamba has no dropout: remove dropout from the grid"):
        load_from(tmp_path / "m", {"dropout": 0.1})


def test_a_dropout_that_is_stated_and_not_used_is_refused() -> None:
    lm = make_llama()
    lm.config.attention_dropout = 0.25  # after its layers have read another one
    with pytest.raises(JobError, match="LlamaForCausalLM does not use its dropout"):
        checks.check_dropout(lm, 0.25)


# activation checkpointing


def test_activation_checkpointing_computes_twice_and_changes_nothing(folder: Path) -> None:
    def run(lm: PreTrainedModel) -> tuple[int, list[torch.Tensor]]:
        calls = []
        lm.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        lm.train()
        torch.manual_seed(0)
        hidden(lm).square().sum().backward()
        return len(calls), [p.grad for p in lm.get_decoder().parameters() if p.grad is not None]

    with_dropout = {"dropout": 0.25}  # the second time must drop the same
    once, want = run(load_from(folder, with_dropout))
    twice, actual = run(load_from(folder, with_dropout, activation_checkpointing=True))
    assert (once, twice) == (1, 2)
    for ours, its in zip(actual, want, strict=True):
        assert torch.equal(ours, its)


def test_a_model_from_scratch_takes_all_of_it() -> None:
    spec = TrainSpec(
        Source("scratch", "w", "0" * 12),
        ROWS,
        Hyperparameters(dtype="bf16", dropout=0.25, template="plain"),
        Scratch(architecture="gemma2", hidden_size=32, num_heads=4),
    )
    lm, tokenizer = load(spec, "", Resources(packing=True, activation_checkpointing=True))
    assert lm.is_activation_checkpointing
    assert lm.config.attention_dropout == 0.25
    assert len(tokenizer) == lm.config.vocab_size


def test_llama_configs_are_what_they_were() -> None:
    """Results of studies that are under way depend on the untrained weights."""
    tokenizer = cldr_tokenizer(["en"])
    torch.manual_seed(3)
    want = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=256, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    actual = scratch.build_from(
        scratch.config_for(Scratch(hidden_size=32), tokenizer), seed=3, attention="sdpa"
    )
    for name, tensor in want.state_dict().items():
        assert torch.equal(actual.state_dict()[name], tensor), name
