"""Scores against a plain reference: one sequence at a time, all logits, log-softmax in float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch.testing import assert_close
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from evaluation import scoring
from evaluation.scoring import length_batches, letter_scores, option_text_scores
from study.errors import JobError
from tests.evaluation.tiny import make_gemma2, make_llama, make_tokenizer

PROMPTS = [
    "2 + 3?\nA. 4\nB. 5\nAnswer:",
    "Mji mkuu wa Kenya?\nA. Nairobi\nB. Kampala\nC. Dodoma\nD. Kigali\nAnswer:",
    "水的沸点?\nA. 90\nB. 100\nC. 110\nAnswer:",
]
NUM_OPTIONS = [2, 4, 3]
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_letter_scores_match_the_reference(name: str, bos: bool, batch_tokens: int) -> None:
    model, tokenizer = MODELS[name], make_tokenizer(bos=bos)
    scored = letter_scores(model, tokenizer, PROMPTS, NUM_OPTIONS, batch_tokens=batch_tokens)
    for prompt, count, score in zip(PROMPTS, NUM_OPTIONS, scored, strict=True):
        ids = encode(tokenizer, prompt)
        last = reference_log_probs(model, ids)[-1]
        letters = [tokenizer(f" {k}", add_special_tokens=False)["input_ids"] for k in "ABCD"[:count]]
        expected = np.array([last[i] for (i,) in letters])
        assert_close(np.array(score.scores), expected, rtol=0, atol=2e-5)
        assert score.option_mass == pytest.approx(np.exp(expected).sum(), abs=1e-6)
        assert score.num_prompt_tokens == len(ids)
        assert (ids[0] == tokenizer.bos_token_id) is bos


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_option_text_scores_match_the_reference(name: str, bos: bool, batch_tokens: int) -> None:
    model, tokenizer = MODELS[name], make_tokenizer(bos=bos)
    scored = option_text_scores(model, tokenizer, PROMPTS, OPTIONS, batch_tokens=batch_tokens)
    for prompt, texts, score in zip(PROMPTS, OPTIONS, scored, strict=True):
        context = encode(tokenizer, prompt)
        assert score.num_prompt_tokens == len(context)
        for text, value, num_tokens in zip(texts, score.scores, score.option_num_tokens, strict=True):
            own = list(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])
            log_probs = reference_log_probs(model, context + own)
            expected = sum(log_probs[len(context) - 1 + k, token] for k, token in enumerate(own))
            assert value == pytest.approx(expected, abs=1e-4)
            assert num_tokens == len(own)


def test_a_head_cut_into_slices_gives_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = option_text_scores(MODELS["gemma2"], TOKENIZER, PROMPTS, OPTIONS, batch_tokens=10_000)
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * len(TOKENIZER) * 3)
    sliced = option_text_scores(MODELS["gemma2"], TOKENIZER, PROMPTS, OPTIONS, batch_tokens=10_000)
    for a, b in zip(whole, sliced, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    questions=st.lists(st.text(min_size=0, max_size=30), min_size=1, max_size=7),
    batch_tokens=st.integers(1, 600),
    name=st.sampled_from(sorted(MODELS)),
)
def test_neither_padding_nor_company_changes_a_score(
    questions: list[str], batch_tokens: int, name: str
) -> None:
    prompts = [f"{q}\nAnswer:" for q in questions]
    together = letter_scores(MODELS[name], TOKENIZER, prompts, [4] * len(prompts), batch_tokens=batch_tokens)
    for prompt, score in zip(prompts, together, strict=True):
        (alone,) = letter_scores(MODELS[name], TOKENIZER, [prompt], [4], batch_tokens=1)
        assert score.scores == pytest.approx(alone.scores, abs=5e-5)
        assert score.num_prompt_tokens == alone.num_prompt_tokens


@given(lengths=st.lists(st.integers(1, 50), max_size=40), batch_tokens=st.integers(1, 200))
def test_batches_hold_every_sequence_once_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    batches = length_batches(lengths, batch_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens


def test_bf16_is_close_to_fp32() -> None:
    model = make_llama().to(torch.bfloat16)  # type: ignore[arg-type]
    low = letter_scores(model, TOKENIZER, PROMPTS, NUM_OPTIONS, batch_tokens=100)
    full = letter_scores(MODELS["llama"], TOKENIZER, PROMPTS, NUM_OPTIONS, batch_tokens=100)
    for a, b in zip(low, full, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=0.25)


def test_too_long_prompts_are_counted_and_named() -> None:
    prompts = ["short\nAnswer:", "x" * 300 + "\nAnswer:", "y" * 400 + "\nAnswer:"]
    with pytest.raises(JobError, match=r"2 items are longer than .* 256 tokens .* 408.*: b, c"):
        letter_scores(MODELS["llama"], TOKENIZER, prompts, [4] * 3, batch_tokens=100, names=["a", "b", "c"])


def test_an_option_that_ends_beyond_the_context_is_refused() -> None:
    with pytest.raises(JobError, match="1 items are longer"):
        option_text_scores(MODELS["llama"], TOKENIZER, ["x" * 200], [["y", "z" * 60]], batch_tokens=100)


def test_a_letter_of_two_tokens_is_refused() -> None:
    with pytest.raises(JobError, match="' C' is no token of its own"):
        letter_scores(MODELS["llama"], make_tokenizer(letters="AB"), PROMPTS, [4] * 3, batch_tokens=100)


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
    (score,) = letter_scores(MODELS["llama"], tokenizer, ["?Answer:"], [4], batch_tokens=100)
    last = reference_log_probs(MODELS["llama"], encode(tokenizer, "?Answer:"))[-1]
    expected = [last[tokenizer.convert_tokens_to_ids(f"▁{letter}")] for letter in "ABCD"]
    assert score.scores == pytest.approx(expected, abs=2e-5)


def test_letters_the_tokenizer_does_not_know_are_refused() -> None:
    core = Tokenizer(models.WordLevel({"<unk>": 0, "Answer": 1, ":": 2, "A": 3}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    with pytest.raises(JobError, match="does not tell the letters AB apart"):
        letter_scores(MODELS["llama"], tokenizer, ["Answer:"], [2], batch_tokens=100)


def test_a_prompt_whose_tokens_change_with_the_answer_is_refused() -> None:
    # "x A" is one token: the answer would be scored after another prompt than the one that was asked
    core = make_tokenizer().backend_tokenizer
    vocabulary = {**core.get_vocab(), "xĠA": len(core.get_vocab())}
    merges = [("Ġ", letter) for letter in "ABCDEFGHIJ"] + [("x", "ĠA")]
    glued = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    glued.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=glued)
    with pytest.raises(JobError, match=r"changes how a prompt is split \(item '1'\)"):
        letter_scores(MODELS["llama"], tokenizer, ["Answer:", "x"], [2, 2], batch_tokens=100)
    with pytest.raises(JobError, match="item '1': an option's tokens do not simply follow"):
        option_text_scores(MODELS["llama"], tokenizer, ["Answer:", "x"], [["A", "B"]] * 2, batch_tokens=100)


def test_scores_that_are_not_finite_name_the_item() -> None:
    model = make_llama()
    with torch.no_grad():
        weight = model.get_parameter("model.embed_tokens.weight")
        weight[encode(TOKENIZER, "Z")[0]] = float("nan")
    prompts = ["fine\nAnswer:", "Z\nAnswer:"]
    with pytest.raises(JobError, match=r"item 'bad': scores .* not finite"):
        letter_scores(model, TOKENIZER, prompts, [2, 2], batch_tokens=100, names=["good", "bad"])


def test_a_model_that_scales_its_logits_is_refused() -> None:
    class Scaled(type(MODELS["llama"])):  # type: ignore[misc]
        def forward(self, *args: object, **kwargs: object) -> object:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits / 8
            return output

    model = Scaled(MODELS["llama"].config).eval()
    with pytest.raises(JobError, match="changes its logits after the head"):
        letter_scores(model, TOKENIZER, PROMPTS, NUM_OPTIONS, batch_tokens=100)
