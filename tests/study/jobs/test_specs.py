"""Specs: identity is what is computed, from what content; every value is checked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings

from study.errors import UserError
from study.jobs.job import Job
from study.jobs.resources import Resources
from study.jobs.specs import (
    AnalyseSpec,
    Benchmark,
    EvalSpec,
    Hyperparameters,
    Scratch,
    Source,
    Spec,
    TrainSpec,
    identity,
    to_dict,
)
from tests.study.specs import SPECS

REVISION = "0123456789abcdef"
HERE = Source("local", "/home/a/model", REVISION)
HUB = Source("hub", "org/model", REVISION)
DATA = Source("embedded", "cldr-instruct", REVISION)


def train_id(model: Source = HERE, dataset: Source = DATA, **hyper: Any) -> str:
    return Job("train", TrainSpec(model, dataset, Hyperparameters(**hyper)), (), {}).job_id


def eval_id(**changes: Any) -> str:
    plain = EvalSpec(HERE, Benchmark("cldr", DATA, "global_mmlu"), "sw")
    return Job("evaluate", dataclasses.replace(plain, **changes), (), {}).job_id


def test_a_moved_folder_is_the_same_model_and_changed_content_another() -> None:
    assert train_id(dataclasses.replace(HERE, name="/scratch/b")) == train_id(HERE)
    assert train_id(dataclasses.replace(HERE, revision="f" * 16)) != train_id(HERE)
    assert eval_id(model=dataclasses.replace(HERE, name="/scratch/b")) == eval_id()


def test_another_hub_name_or_kind_is_another_model() -> None:
    others = {train_id(HUB), train_id(dataclasses.replace(HUB, name="org/other")), train_id(HERE)}
    assert len(others) == 3


def test_every_hyperparameter_is_part_of_the_identity() -> None:
    changed: dict[str, Any] = {
        "learning_rate": 1e-4,
        "label_smoothing": 0.1,
        "seed": 1,
        "num_examples": 5,
        "exclude_sources": ("aya",),
        "num_epochs": 3,
        "num_steps": 5,
        "global_batch_size": 64,
        "max_length_tokens": 64,
        "template": "plain",
        "dtype": "fp32",
        "dropout": 0.1,
        "logit_softcap": 32.0,
        "logit_temperature": 0.5,
        "warmup_ratio": 0.1,
        "weight_decay": 0.1,
        "beta1": 0.8,
        "beta2": 0.98,
        "max_grad_norm": 0.5,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(Hyperparameters)}
    ids = {train_id(), *(train_id(**{key: value}) for key, value in changed.items())}
    assert len(ids) == 1 + len(dataclasses.fields(Hyperparameters))


def test_every_part_of_an_evaluation_is_part_of_its_identity() -> None:
    benchmark = Benchmark("cldr", DATA, "global_mmlu")
    ids = {
        eval_id(),
        eval_id(language="en"),
        eval_id(protocol="option_text"),
        eval_id(dtype="fp32"),
        eval_id(benchmark=dataclasses.replace(benchmark, name="other")),
        eval_id(benchmark=dataclasses.replace(benchmark, num_items=5)),
        eval_id(benchmark=dataclasses.replace(benchmark, split="dev")),
        eval_id(benchmark=dataclasses.replace(benchmark, schema="mmlu_prox")),
        eval_id(benchmark=dataclasses.replace(benchmark, source=HUB)),
    }
    assert len(ids) == 9


def test_how_a_job_runs_is_not_part_of_what_it_computes() -> None:
    outside = {field.name for field in dataclasses.fields(Resources)} | {"mode", "project", "entity"}
    specs: list[Spec] = [
        TrainSpec(HERE, DATA, Hyperparameters()),
        TrainSpec(Source("scratch", "word-level", "0" * 12), DATA, Hyperparameters(), Scratch()),
        EvalSpec(HERE, Benchmark("cldr", DATA, "global_mmlu"), "sw"),
        AnalyseSpec((REVISION,)),
    ]

    def keys(value: Any) -> set[str]:
        if not isinstance(value, dict):
            return set()
        return set(value).union(*(keys(inner) for inner in value.values()))

    for spec in specs:
        assert not keys(to_dict(spec)) & outside


@settings(max_examples=50)
@given(SPECS)
def test_identity_is_plain_and_differs_from_the_spec_by_local_names_alone(spec: Any) -> None:
    def without_local_names(value: Any) -> Any:
        if isinstance(value, dict):
            drop = {"name"} if value.get("kind") == "local" else set()
            return {key: without_local_names(inner) for key, inner in value.items() if key not in drop}
        return list(value) if isinstance(value, tuple) else value

    assert identity(spec) == without_local_names(to_dict(spec))


WRONG: list[tuple[type[Any], str, Any]] = [
    (Hyperparameters, "learning_rate", 0.0),
    (Hyperparameters, "learning_rate", math.nan),
    (Hyperparameters, "learning_rate", math.inf),
    (Hyperparameters, "label_smoothing", -0.1),
    (Hyperparameters, "label_smoothing", 1.0),
    (Hyperparameters, "label_smoothing", math.nan),
    (Hyperparameters, "seed", -1),
    (Hyperparameters, "seed", 2**63),
    (Hyperparameters, "warmup_ratio", 1.1),
    (Hyperparameters, "weight_decay", -1.0),
    (Hyperparameters, "weight_decay", math.inf),
    (Hyperparameters, "max_grad_norm", 0.0),
    (Hyperparameters, "max_grad_norm", math.inf),
    (Hyperparameters, "max_length_tokens", 1),
    (Hyperparameters, "num_epochs", 0),
    (Hyperparameters, "num_steps", 0),
    (Hyperparameters, "num_examples", 0),
    (Hyperparameters, "global_batch_size", 0),
    (Hyperparameters, "template", "chatml"),
    (Hyperparameters, "dtype", "fp16"),
    (Scratch, "hidden_size", 130),
    (Scratch, "num_layers", 0),
    (Scratch, "architecture", "gpt"),
    (Scratch, "initializer_range", 0.0),
    (Scratch, "initializer_range", math.nan),
    (Scratch, "rope_theta", math.inf),
    (Resources, "nodes", 0),
    (Resources, "gpus_per_node", -1),
    (Resources, "mem_gib", 0.0),
    (Resources, "mem_gib", math.inf),
    (Resources, "zero_stage", 0),
    (Resources, "zero_stage", 4),
    (Resources, "micro_batch_size", 0),
    (Resources, "micro_batch_tokens", 0),
    (Resources, "attention", "flash"),
    (Resources, "save_only_model", True),  # with resume, which is the default
    (Hyperparameters, "template", "alpaca"),
    (Hyperparameters, "dropout", 1.0),
    (Hyperparameters, "logit_softcap", 0.0),
    (Hyperparameters, "logit_temperature", 0.0),
    (Resources, "batch_tokens", 0),
]


@pytest.mark.parametrize(("kind", "key", "value"), WRONG)
def test_a_value_out_of_range(kind: type[Any], key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        kind(**{key: value})
    assert caught.value.where == key
    assert caught.value.remedy


def test_the_edges_of_the_ranges_are_inside() -> None:
    Hyperparameters(label_smoothing=0.0, warmup_ratio=0.0, weight_decay=0.0, seed=0, max_length_tokens=2)
    Hyperparameters(warmup_ratio=1.0, beta1=0.0, seed=2**63 - 1, num_steps=1, num_examples=1)
    Resources(gpus_per_node=0, zero_stage=3, mem_gib=0.5)
