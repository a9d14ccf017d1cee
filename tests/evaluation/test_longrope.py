"""Models that have another rotary embedding for long sequences: what is scored is what they say alone."""

from __future__ import annotations

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedModel

from evaluation import scoring
from evaluation.encoding import Query
from evaluation.forward import plain_log_prob
from evaluation.scoring import Scorer
from study.errors import JobError
from tests.evaluation.tiny import CONTEXT, make_tokenizer

ORIGINAL = 64
TOKENIZER = make_tokenizer()


def make_phi3(original: int = ORIGINAL) -> PreTrainedModel:
    torch.manual_seed(1)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": original,
    }
    config = Phi3Config(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        original_max_position_embeddings=original,
        initializer_range=0.3,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters=rope,
    )
    model: PreTrainedModel = Phi3ForCausalLM(config)
    model.eval()
    return model


def asked(*lengths: int, answers: tuple[str, ...] = (" xx", " A")) -> list[Query]:
    """Questions of so many tokens, answers not counted; they begin alike."""
    return [Query(str(length), "y" * (length - 7) + "Answer:", answers) for length in lengths]


def test_up_to_where_the_embedding_changes_scores_are_the_models_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a prefix and beside others; the longest has 64 tokens that go in."""
    monkeypatch.setattr(scoring, "PREFIX_COST_TOKENS", 4)
    model = make_phi3()
    scorer = Scorer([model], TOKENIZER, batch_tokens=2048)
    assert scorer.shares
    queries = asked(*range(40, 63))
    for query, score in zip(queries, scorer.score(queries), strict=True):
        context = list(TOKENIZER(query.context)["input_ids"])
        own = [plain_log_prob(model, context, TOKENIZER(answer)["input_ids"]) for answer in query.answers]
        assert score.scores == pytest.approx(own, abs=5e-5)


def test_longer_questions_are_refused_in_one_sentence() -> None:
    scorer = Scorer([make_phi3()], TOKENIZER, batch_tokens=2048)
    with pytest.raises(JobError, match=r"^2 items are longer than the 64 tokens .* has 102\): 63, 100;"):
        scorer.score(asked(62, 63, 100))


@pytest.mark.parametrize("original", [CONTEXT, 2 * CONTEXT])
def test_a_context_within_the_first_embedding_is_scored_to_its_end(original: int) -> None:
    queries = asked(40, CONTEXT - 2)
    assert len(Scorer([make_phi3(original)], TOKENIZER, batch_tokens=2048).score(queries)) == 2
