"""lm-evaluation-harness's model of transformers, asked what our scorer is asked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.encoding import Query

REMEDY = "lm-eval is not installed; pip install -e '.[lm-eval]'"
BATCH_SIZE = 8


def hflm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
    """An HFLM around a model that is loaded already; all else as it is by default."""
    from lm_eval.models.huggingface import HFLM

    # a copy: it adds a padding token to a tokenizer that has none
    return HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=BATCH_SIZE)


def log_scores(lm: Any, queries: Sequence[Query]) -> list[list[float]]:
    """The log-score of each query's answers, nats, in the order of the queries."""
    from lm_eval.api.instance import Instance

    pairs = [(query.context, answer) for query in queries for answer in query.answers]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    values = iter([value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)])
    return [[next(values) for _ in query.answers] for query in queries]
