"""Log-scores of lm-evaluation-harness 0.4.13, kept in a file: held to without it.

The models' weights come from a formula, so that they are the same on any machine. The file was made by

    python -m tests.evaluation.test_lm_eval_golden

where lm-eval is installed (pip install -e '.[lm-eval]').
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from evaluation.encoding import Query
from evaluation.items.item import Item
from evaluation.prompts import answers, context
from evaluation.scoring import Scorer
from tests.evaluation.peer import hflm, log_scores
from tests.evaluation.tiny import make_gemma2, make_llama, make_tokenizer

FILE = Path(__file__).with_name("golden_lm_eval.json")
CONTEXT = 2048
TOLERANCE = 1e-4
SCALE = 1.2
"""Weights are uniform in [-SCALE / 2, SCALE / 2), which keeps scores far from equal."""
MODELS = ["llama", "gemma2"]
ITEMS = [
    Item("0", "s", "Mji mkuu wa Kenya ni upi?", ("Nairobi", "Kampala", "Dodoma", "Kigali"), 0),
    Item("1", "s", "水的沸点是多少度？\n", ("九十", "一百", "100", "A"), 1),
    Item("2", "s", "2 + 3?", tuple("5 6 seven 8 nine 10 11 twelve 13 14".split()), 0),
    Item("3", "s", "Wie viele Tage hat ein Jahr?", ("365", "366 an Schaltjahren", "12", "52"), 0),
    Item("4", "s", "ما هي عاصمة مصر؟", ("القاهرة", "الجيزة", "أسوان"), 0),
    Item("5", "s", "Which is a prime number? Think before you answer.", ("4", "6", "7", "9 or 10"), 2),
    Item("6", "s", "¿Qué viene después de mayo?", ("junio", "julio"), 0),
]
CASES = [("letter", 0), ("letter", 5), ("option_text", 0), ("option_text", 5)]
"""Protocol and number of shots."""


def weights_by_formula(model: PreTrainedModel) -> PreTrainedModel:
    """Each matrix from a hash of its name's place and of the places in it; norms stay as they are made."""
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
            if parameter.ndim != 2:
                continue
            place = np.arange(parameter.numel(), dtype=np.uint64) + np.uint64(number << 32)
            # the mixing function of splitmix64: exact, and wraps around by design
            place *= np.uint64(0x9E3779B97F4A7C15)
            place = (place ^ (place >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            place = (place ^ (place >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            uniform = (place >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
            values = torch.from_numpy((uniform - np.float32(0.5)) * np.float32(SCALE))
            parameter.copy_(values.view(parameter.shape))
    return model


def tiny(name: str) -> PreTrainedModel:
    model = weights_by_formula({"llama": make_llama, "gemma2": make_gemma2}[name]())
    model.config.max_position_embeddings = CONTEXT
    return model


def asked(protocol: str, num_shots: int) -> list[Query]:
    items, shots = (ITEMS[:2], ITEMS[2:]) if num_shots else (ITEMS, [])
    return [
        Query(
            item.example_id,
            context(item, shots[:num_shots], protocol=protocol, scaffold="english", language="en"),
            answers(item, protocol=protocol, scaffold="english"),
        )
        for item in items
    ]


def golden(protocol: str, num_shots: int) -> list[dict[str, Any]]:
    questions = json.loads(FILE.read_text(encoding="utf-8"))
    return [
        question
        for question in questions
        if (question["protocol"], question["num_shots"]) == (protocol, num_shots)
    ]


def as_queries(questions: list[dict[str, Any]]) -> list[Query]:
    return [
        Query(question["name"], question["context"], tuple(question["answers"])) for question in questions
    ]


@pytest.mark.parametrize("batch_tokens", [1, 100_000])
@pytest.mark.parametrize(("protocol", "num_shots"), CASES)
@pytest.mark.parametrize("name", MODELS)
def test_the_scores_are_those_of_lm_eval(name: str, protocol: str, num_shots: int, batch_tokens: int) -> None:
    scorer = Scorer([tiny(name)], make_tokenizer(bos=True), batch_tokens=batch_tokens)
    questions = golden(protocol, num_shots)
    scores = scorer.score(as_queries(questions), letters=protocol == "letter")
    for question, own in zip(questions, scores, strict=True):
        assert_close(own.scores, question["log_scores"][name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("protocol", "num_shots"), CASES)
def test_the_prompts_are_those_of_the_file(protocol: str, num_shots: int) -> None:
    assert as_queries(golden(protocol, num_shots)) == asked(protocol, num_shots)


def main() -> None:
    peers = {name: hflm(tiny(name), make_tokenizer(bos=True)) for name in MODELS}
    lines = []
    for protocol, num_shots in CASES:
        queries = asked(protocol, num_shots)
        scores = {name: log_scores(peer, queries) for name, peer in peers.items()}
        for i, query in enumerate(queries):
            own = {name: [round(value, 6) for value in actual[i]] for name, actual in scores.items()}
            question = {"protocol": protocol, "num_shots": num_shots, **query._asdict(), "log_scores": own}
            lines.append(json.dumps(question, ensure_ascii=False))
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
