"""What a run leaves: the weights bit for bit, the model's own config, and the prompt it was trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from modeling.loading import DTYPES
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.jobs.specs import ARCHITECTURES, Hyperparameters, Scratch, Source, TrainSpec
from tests.evaluation.tiny import make_llama
from tests.training.attempts import processes
from tests.training.toys import KINDS, toy_tokenizer
from tests.waiting import HANG_S
from training import model
from training.data.encoding import encoder
from training.data.messages import Message, renderer
from training.data.templates import chat_template
from training.engine import export, zero
from training.engine.zero import World

ALONE = World(0, 1, torch.device("cpu"))
SYSTEM, USER, ASSISTANT = (Message(role, f"{role} says é") for role in ("system", "user", "assistant"))
TALKS = {
    "one turn": [USER, ASSISTANT],
    "with a system": [SYSTEM, USER, ASSISTANT],
    "two turns": [SYSTEM, USER, ASSISTANT, USER, USER, ASSISTANT],
    "an answer first": [ASSISTANT, USER, ASSISTANT],
}
CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def job_of(architecture: str = "llama", *, tied: bool = True, **hyper: Any) -> Job:
    chosen = Hyperparameters(**{"template": "plain", "dtype": "fp32", "warmup_ratio": 0.0, **hyper})
    shape = Scratch(architecture=architecture, hidden_size=32, num_heads=4, tie_word_embeddings=tied)
    spec = TrainSpec(
        Source("scratch", "w", "0" * 12), Source("embedded", "cldr-pretrain", "0" * 12), chosen, shape
    )
    return Job("prepare", spec, needs=(), cell={"model": "tiny"})


def prompted(tokenizer: PreTrainedTokenizerBase, talk: list[Message], **options: Any) -> Any:
    return tokenizer.apply_chat_template([message._asdict() for message in talk], **options)


# chat templates


@pytest.fixture(scope="module", params=KINDS)
def toy(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return toy_tokenizer(request.param)


@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS)
@pytest.mark.parametrize("template", ["plain", "tulu"])
def test_the_chat_template_is_what_was_trained(
    toy: PreTrainedTokenizerBase, template: str, talk: list[Message]
) -> None:
    text, spans = renderer(template, toy)(talk, "here")
    toy.chat_template = chat_template(template, toy)
    begin = "<s> " if toy.name_or_path == "toy-metaspace" else "<s>"
    # after the last answer nothing is trained
    assert prompted(toy, talk, tokenize=False) == begin + text[: spans[-1][1]]
    prompt = prompted(toy, talk[:-1], tokenize=False, add_generation_prompt=True)
    assert prompt == begin + text[: spans[-1][0]]


@pytest.mark.parametrize("template", ["plain", "tulu"])
def test_its_tokens_are_those_of_the_training(toy: PreTrainedTokenizerBase, template: str) -> None:
    for talk in TALKS.values():
        (trained,) = encoder(toy, 1000)([renderer(template, toy)(talk, "here")])
        toy.chat_template = chat_template(template, toy)
        assert trained is not None
        assert prompted(toy, talk)["input_ids"] == trained.ids.tolist()


def test_a_tokenizer_without_a_beginning_of_text_gets_none() -> None:
    from tests.evaluation.tiny import BOS, make_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.eos_token = BOS
    tokenizer.chat_template = chat_template("tulu", tokenizer)
    assert prompted(tokenizer, [USER], tokenize=False) == "<|user|>\nuser says é\n"


def test_the_tokenizers_own_template_stays(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer("byte_level", chat_template=CHATML)
    for template, its_template in (
        ("tokenizer", CHATML),
        ("tulu", chat_template("tulu", tokenizer)),
    ):
        folder = tmp_path / template
        job = job_of(template=template)
        export.save_model(make_llama(), tokenizer, job, folder, zero_stage=2, world=ALONE)
        assert AutoTokenizer.from_pretrained(folder).chat_template == its_template
        assert tokenizer.chat_template == CHATML


# the folder


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_was_exported_loads_bit_for_bit(
    tmp_path: Path, architecture: str, tied: bool, dtype: str
) -> None:
    job = job_of(architecture, tied=tied, dtype=dtype, dropout=0.25)
    assert isinstance(job.spec, TrainSpec)
    lm, tokenizer = model.load(job.spec, "", Resources())
    lm.bfloat16() if dtype == "bf16" else lm.float()
    export.save_model(lm, tokenizer, job, tmp_path / "model", zero_stage=2, world=ALONE)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.dtype == DTYPES[dtype]
    for name, tensor in lm.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert ("lm_head.weight" in load_file(tmp_path / "model" / "model.safetensors")) == (not tied)
    assert loaded.config.attention_dropout == 0.0
    assert lm.config.attention_dropout == 0.25
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == len(tokenizer)
    assert {file.name for file in tmp_path.iterdir()} == {"model"}


def test_the_card_states_the_specification(tmp_path: Path) -> None:
    job = job_of(label_smoothing=0.3)
    tokenizer = toy_tokenizer("byte_level")
    export.save_model(make_llama(), tokenizer, job, tmp_path / "model", zero_stage=2, world=ALONE)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    stated = json.loads(card.split("```json\n")[1].split("```")[0])
    assert stated["hyper"]["label_smoothing"] == 0.3
    assert stated["scratch"]["hidden_size"] == 32
    assert job.job_id in card


def test_settings_of_sampling_that_contradict_each_other_do_not_lose_the_model(tmp_path: Path) -> None:
    """As of Llama-2's chat models: transformers reads them, and refuses to write them."""
    lm = make_llama()
    lm.generation_config = GenerationConfig(eos_token_id=2, temperature=0.9, do_sample=False)
    with pytest.raises(ValueError, match="temperature"):
        lm.save_pretrained(tmp_path / "refused")
    tokenizer = toy_tokenizer("byte_level")
    export.save_model(lm, tokenizer, job_of(), tmp_path / "model", zero_stage=2, world=ALONE)
    written = GenerationConfig.from_pretrained(tmp_path / "model")
    assert written.eos_token_id == 2
    assert written.temperature is None


# after a training with DeepSpeed


def _train_and_export(folder: Path, zero_stage: int) -> None:
    """Two steps in bf16; beside the model, DeepSpeed's own float32 weights, as bf16."""
    from deepspeed.utils import safe_get_full_fp32_param

    world = zero.join()
    job = job_of("gemma2", tied=zero_stage == 2, dtype="bf16", learning_rate=0.01, dropout=0.25)
    assert isinstance(job.spec, TrainSpec)
    resources = Resources(zero_stage=zero_stage, activation_checkpointing=True)
    lm, tokenizer = model.load(job.spec, "", resources)
    lm.register_buffer("kept", torch.arange(3.0))
    engine = zero.engine(model.LossModel(lm, job.spec.hyper), job.spec.hyper, resources, steps=2)
    engine.train()
    before = {name: safe_get_full_fp32_param(p).clone() for name, p in lm.named_parameters()}
    input_ids = torch.randint(4, 4000, (2, 40))
    for _ in range(2):
        losses = engine(input_ids, input_ids)
        zero.backward(engine, losses.loss_sum / losses.num_tokens, last=True)
        engine.step()
    masters = {name: safe_get_full_fp32_param(p) for name, p in lm.named_parameters()}
    assert not [name for name in masters if torch.equal(masters[name], before[name])]
    # rotations in bf16 would be another model than the one that is exported
    assert lm.model.rotary_emb.inv_freq.dtype == torch.float32
    save_file({name: tensor.bfloat16().contiguous() for name, tensor in masters.items()}, folder / "want")
    export.save_model(lm, tokenizer, job, folder / "model", zero_stage=zero_stage, world=world)
    zero.leave()


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_what_was_trained_is_what_was_exported(tmp_path: Path, zero_stage: int) -> None:
    process = processes.Process(target=_train_and_export, args=(tmp_path, zero_stage))
    process.start()
    process.join(HANG_S)
    assert process.exitcode == 0
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert load_file(tmp_path / "model" / "model.safetensors")["kept"].tolist() == [0, 1, 2]
    want = load_file(tmp_path / "want")
    actual = dict(loaded.named_parameters())
    assert actual.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(actual[name], tensor), name
