"""Scores against a plain reference: one sequence at a time, all logits, log-softmax in float64 NumPy."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PhiConfig, PhiForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from evaluation import forward, scoring
from evaluation.encoding import Encoded, Query
from evaluation.forward import Prefix, answer_log_probs, prefix_of
from evaluation.scoring import Scorer, length_batches
from study.errors import JobError
from tests.evaluation.tiny import make_gemma2, make_llama, make_tokenizer
from tests.waiting import HANG_S

PROMPTS = [
    "2 + 3?\nA. 4\nB. 5\nAnswer:",
    "Mji mkuu wa Kenya?\nA. Nairobi\nB. Kampala\nC. Dodoma\nD. Kigali\nAnswer:",
    "水的沸点?\nA. 90\nB. 100\nC. 110\nAnswer:",
]
OPTIONS = [["4", "5"], ["Nairobi", "Kampala", "Dodoma", "Kigali"], ["九十度", "A", "one hundred and ten"]]
MODELS = {"llama": make_llama(), "gemma2": make_gemma2()}
TOKENIZER = make_tokenizer()


def reference_log_probs(model: PreTrainedModel, ids: list[int]) -> np.ndarray:
    """(T, V) float64, the model's own logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def queries(prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[Query]:
    pairs = zip(prompts, answers, strict=True)
    return [Query(str(i), prompt, tuple(f" {a}" for a in own)) for i, (prompt, own) in enumerate(pairs)]


LETTER_QUERIES = queries(PROMPTS, ["AB", "ABCD", "ABC"])
TEXT_QUERIES = queries(PROMPTS, OPTIONS)


def expected(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, query: Query) -> list[float]:
    context = encode(tokenizer, query.context)
    values = []
    for answer in query.answers:
        own = list(tokenizer(answer, add_special_tokens=False)["input_ids"])
        log_probs = reference_log_probs(model, context + own)
        values.append(sum(log_probs[len(context) - 1 + k, token] for k, token in enumerate(own)))
    return values


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_scores_match_the_reference(name: str, bos: bool, batch_tokens: int, shares: bool) -> None:
    model, tokenizer = MODELS[name], make_tokenizer(bos=bos)
    scorer = Scorer([model], tokenizer, batch_tokens=batch_tokens)
    assert scorer.shares
    scorer.shares = shares
    for asked, letters in ((LETTER_QUERIES, True), (TEXT_QUERIES, False)):
        for query, score in zip(asked, scorer.score(asked, letters=letters), strict=True):
            context = encode(tokenizer, query.context)
            assert score.scores == pytest.approx(expected(model, tokenizer, query), abs=5e-5)
            assert score.num_context_tokens == len(context)
            assert (context[0] == tokenizer.bos_token_id) is bos
            own = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in query.answers]
            assert score.num_tokens == [len(ids) for ids in own]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_tokens", [300, 10_000])
def test_questions_behind_the_same_shots_score_as_if_alone(
    name: str, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shots of 60 tokens and more, beyond gemma's window of 16; two subjects, mixed."""
    shots = [f"{s}: one and one?\nAnswer: {s * 20}\n\n" for s in "xy"]
    asked = [
        Query(str(i), f"{shots[i % 2]}{'?' * i} {i} + {i}\nAnswer:", (f" {2 * i}", " none", f" {i * 37}"))
        for i in range(9)
    ]
    lengths = []

    def spied(model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
        lengths.append(len(ids))
        return prefix_of(model, ids)

    monkeypatch.setattr(scoring, "prefix_of", spied)
    monkeypatch.setattr(scoring, "PREFIX_COST_TOKENS", 20)
    for query, score in zip(
        asked, Scorer([MODELS[name]], TOKENIZER, batch_tokens=batch_tokens).score(asked), strict=True
    ):
        assert score.scores == pytest.approx(expected(MODELS[name], TOKENIZER, query), abs=5e-5)
    assert len(lengths) == 2, "each subject's shots go through the model once"
    assert min(lengths) > 40


def test_a_bias_of_the_head_counts() -> None:
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, initializer_range=0.3,
    )  # fmt: skip
    phi = PhiForCausalLM(config).eval()
    torch.nn.init.normal_(phi.lm_head.bias)
    scores = Scorer([phi], TOKENIZER, batch_tokens=150).score(TEXT_QUERIES)
    for query, score in zip(TEXT_QUERIES, scores, strict=True):
        assert score.scores == pytest.approx(expected(phi, TOKENIZER, query), abs=5e-5)


def test_a_head_cut_into_slices_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer([MODELS["gemma2"]], TOKENIZER, batch_tokens=10_000)
    whole = scorer.score(TEXT_QUERIES)
    monkeypatch.setattr(forward, "LOGITS_BYTES", 4 * len(TOKENIZER) * 3)
    for a, b in zip(whole, scorer.score(TEXT_QUERIES), strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    questions=st.lists(st.text(min_size=0, max_size=30), min_size=1, max_size=7),
    answers=st.lists(
        st.text("ab ", min_size=1, max_size=9).map(str.strip).filter(bool), min_size=1, max_size=4
    ),
    batch_tokens=st.integers(1, 600),
    name=st.sampled_from(sorted(MODELS)),
)
def test_neither_padding_nor_company_changes_a_score(
    questions: list[str], answers: list[str], batch_tokens: int, name: str
) -> None:
    asked = queries([f"{q}\nAnswer:" for q in questions], [answers] * len(questions))
    scorer = Scorer([MODELS[name]], TOKENIZER, batch_tokens=batch_tokens)
    for query, score in zip(asked, scorer.score(asked), strict=True):
        (alone,) = scorer.score([query])
        assert score.scores == pytest.approx(alone.scores, abs=1e-4)
        assert score.num_context_tokens == alone.num_context_tokens


@given(lengths=st.lists(st.integers(1, 50), max_size=40), batch_tokens=st.integers(1, 200))
def test_batches_hold_every_sequence_once_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    actual = length_batches(lengths, batch_tokens)
    assert sorted(i for batch in actual for i in batch) == list(range(len(lengths)))
    for batch in actual:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens


def test_copies_of_a_model_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on several GPUs: every copy takes batches, and the scores are those of one."""
    asked = queries([f"{'?' * i}\nAnswer:" for i in range(24)], [["a", "bc"]] * 24)
    copies = [make_llama() for _ in range(2)]
    used, both = set(), threading.Barrier(2, timeout=HANG_S)

    def spied(model: PreTrainedModel, *args: Any) -> list[list[float]]:
        if id(model) not in used:
            used.add(id(model))
            both.wait()  # neither is done before the other has begun
        return answer_log_probs(model, *args)

    one = Scorer(copies[:1], TOKENIZER, batch_tokens=60).score(asked)
    scorer = Scorer(copies, TOKENIZER, batch_tokens=60)
    monkeypatch.setattr(scoring, "answer_log_probs", spied)
    assert scorer.score(asked) == one
    assert used == {id(copy) for copy in copies}


def test_a_batch_that_does_not_fit_is_halved_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = queries([f"{i}?\nAnswer:" for i in range(100, 124)], [["a", "bc"]] * 24)
    scorer = Scorer([MODELS["llama"]], TOKENIZER, batch_tokens=10_000)
    whole, sizes = scorer.score(asked), []

    def small(model: PreTrainedModel, rows: Sequence[Encoded], prefix: Prefix | None) -> list[list[float]]:
        sizes.append(len(rows))
        if len(rows) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer_log_probs(model, rows, prefix)

    monkeypatch.setattr(scoring, "answer_log_probs", small)
    for a, b in zip(whole, scorer.score(asked), strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)
    assert sizes[:4] == [24, 12, 6, 3]
    assert max(sizes[3:]) <= 5, "what did not fit once is not tried again"
    monkeypatch.setattr(scoring, "answer_log_probs", raise_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(asked)


def test_a_prefix_that_does_not_fit_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = queries([f"{'x' * 180}{i}?\nAnswer:" for i in range(100, 112)], [["a", "bc"]] * 12)
    scorer = Scorer([MODELS["llama"]], TOKENIZER, batch_tokens=500)
    widths, tries = [], []

    def no_memory(model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
        tries.append(len(ids))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def spied(model: PreTrainedModel, rows: Sequence[Encoded], prefix: Prefix | None) -> list[list[float]]:
        assert prefix is None
        widths.append(sum(map(forward.num_inputs, rows)))
        return answer_log_probs(model, rows, prefix)

    monkeypatch.setattr(scoring, "prefix_of", no_memory)
    monkeypatch.setattr(scoring, "answer_log_probs", spied)
    for query, score in zip(asked, scorer.score(asked), strict=True):
        assert score.scores == pytest.approx(expected(MODELS["llama"], TOKENIZER, query), abs=5e-5)
    assert len(tries) == 1, "what did not fit once is not tried again"
    assert tries[0] > 180
    assert max(widths) <= 500, "whole questions in passes of their size"


def raise_out_of_memory(*args: object) -> list[list[float]]:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_model_that_looks_at_the_order_of_its_input_shares_nothing() -> None:
    """Positions follow the place in the batch and ignore position_ids: answers need separate sequences."""

    class Ordered(type(MODELS["llama"].base_model)):  # type: ignore[misc]
        def forward(self, *args: object, **kwargs: object) -> object:
            kwargs.pop("position_ids", None)
            return super().forward(*args, **kwargs)

    model = make_llama()
    model.base_model.__class__ = Ordered
    scorer = Scorer([model], TOKENIZER, batch_tokens=100)
    assert not scorer.shares
    for query, score in zip(TEXT_QUERIES, scorer.score(TEXT_QUERIES), strict=True):
        assert score.scores == pytest.approx(expected(MODELS["llama"], TOKENIZER, query), abs=5e-5)


def test_bf16_is_close_to_fp32() -> None:
    model = make_llama().to(torch.bfloat16)  # type: ignore[arg-type]
    low = Scorer([model], TOKENIZER, batch_tokens=100).score(LETTER_QUERIES)
    full = Scorer([MODELS["llama"]], TOKENIZER, batch_tokens=100).score(LETTER_QUERIES)
    for a, b in zip(low, full, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=0.25)


def test_too_long_prompts_are_counted_and_named() -> None:
    prompts = ["short\nAnswer:", "x" * 300 + "\nAnswer:", "y" * 400 + "\nAnswer:"]
    asked = [q._replace(name="abc"[i]) for i, q in enumerate(queries(prompts, ["ABCD"] * 3))]
    scorer = Scorer([MODELS["llama"]], TOKENIZER, batch_tokens=100)
    with pytest.raises(JobError, match=r"2 items are longer than .* 256 tokens .* 408.*: b, c"):
        scorer.score(asked)


def test_long_prompts_lose_their_beginning_when_told_to() -> None:
    tokenizer = make_tokenizer(bos=True)
    (asked,) = queries(["x" * 100 + "y" * 241 + "\nAnswer:"], [["A", "bcd"]])  # BOS + 349, + 2 of " bcd"
    scorer = Scorer([MODELS["llama"]], tokenizer, batch_tokens=100, too_long="cut")
    (score,) = scorer.score([asked])
    kept = Query("", asked.context[353 - 256 :], asked.answers)
    assert score.scores == pytest.approx(expected(MODELS["llama"], tokenizer, kept), abs=5e-5)
    assert (score.num_context_tokens, score.num_cut) == (253, 97)
    with pytest.raises(JobError, match="1 items are longer"):  # not one token of the question would be left
        scorer.score(queries(["x\nAnswer:"], [["y" * 300]]))


def test_an_option_that_ends_beyond_the_context_is_refused() -> None:
    asked = queries(["x" * 200], [["y", "z" * 60]])
    with pytest.raises(JobError, match="1 items are longer"):
        Scorer([MODELS["llama"]], TOKENIZER, batch_tokens=100).score(asked)


def test_a_letter_of_two_tokens_is_refused() -> None:
    scorer = Scorer([MODELS["llama"]], make_tokenizer(letters="AB"), batch_tokens=100)
    with pytest.raises(JobError, match=r"' C' is not a single token \(item '1'\)"):
        scorer.score(LETTER_QUERIES, letters=True)


def test_a_sentencepiece_tokenizer_is_asked_in_context() -> None:
    # Llama-2's and Mistral's put a space in front of every text: " A" alone is two tokens, after a prompt one
    tokens = ["<unk>", "▁", *"Answer:?", *"BCD", "▁A", "▁B", "▁C", "▁D"]
    merges = [("▁", letter) for letter in "ABCD"]
    core = Tokenizer(
        models.BPE({t: i for i, t in enumerate(dict.fromkeys(tokens))}, merges, unk_token="<unk>")
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert len(encode(tokenizer, " A")) == 2
    scorer = Scorer([MODELS["llama"]], tokenizer, batch_tokens=100)
    (score,) = scorer.score(queries(["?Answer:"], ["ABCD"]), letters=True)
    last = reference_log_probs(MODELS["llama"], encode(tokenizer, "?Answer:"))[-1]
    letters = [last[tokenizer.convert_tokens_to_ids(f"▁{letter}")] for letter in "ABCD"]
    assert score.scores == pytest.approx(letters, abs=2e-5)


def test_letters_the_tokenizer_does_not_know_are_refused() -> None:
    core = Tokenizer(models.WordLevel({"<unk>": 0, "Answer": 1, ":": 2, "A": 3}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    scorer = Scorer([MODELS["llama"]], tokenizer, batch_tokens=100)
    with pytest.raises(JobError, match="does not distinguish the letters AB"):
        scorer.score(queries(["Answer:"], ["AB"]), letters=True)


def test_a_prompt_whose_tokens_change_with_the_answer_is_refused() -> None:
    # "x A" is one token: the answer would be scored after another prompt than the one that was asked
    core = make_tokenizer().backend_tokenizer
    vocabulary = {**core.get_vocab(), "xĠA": len(core.get_vocab())}
    merges = [("Ġ", letter) for letter in "ABCDEFGHIJ"] + [("x", "ĠA")]
    glued = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    glued.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=glued)
    with pytest.raises(JobError, match="item '1': an answer's tokens do not simply follow"):
        Scorer([MODELS["llama"]], tokenizer, batch_tokens=100).score(queries(["Answer:", "x"], ["AB", "AB"]))


def test_scores_that_are_not_finite_name_the_item() -> None:
    model = make_llama()
    with torch.no_grad():
        weight = model.get_parameter("model.embed_tokens.weight")
        weight[encode(TOKENIZER, "Z")[0]] = float("nan")
    asked = [Query("good", "fine\nAnswer:", (" A", " B")), Query("bad", "Z\nAnswer:", (" A", " B"))]
    with pytest.raises(JobError, match=r"item 'bad': scores .* not finite"):
        Scorer([model], TOKENIZER, batch_tokens=100).score(asked)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    class Scaled(type(MODELS["llama"])):  # type: ignore[misc]
        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits / 8
            return output

    model = Scaled(MODELS["llama"].config).eval()
    with pytest.raises(JobError, match="changes its logits after the head"):
        Scorer([model], TOKENIZER, batch_tokens=100)
