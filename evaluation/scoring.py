"""Log-probabilities of answers after prompts, under a causal language model.

Scores are nats over the full vocabulary. Batches are sorted by length and padded on the right; the output
head is applied to the positions that are read and to no other, as with 256,000 words it would cost more
than the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluation.prompts import continuation, letters
from study.errors import JobError

LOGITS_BYTES = 2**28
NAMED = 3


class LetterScore(NamedTuple):
    """scores: one log-probability per letter, nats. option_mass: probability on the letters together."""

    scores: list[float]
    option_mass: float
    num_prompt_tokens: int


class OptionTextScore(NamedTuple):
    """scores: summed log-probability of each option's tokens, nats. option_num_tokens: how many they are."""

    scores: list[float]
    option_num_tokens: list[int]
    num_prompt_tokens: int


def letter_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    num_options: Sequence[int],
    *,
    batch_tokens: int,
    names: Sequence[str] | None = None,
) -> list[LetterScore]:
    """Score the letters of each prompt's options, in the order of the prompts.

    batch_tokens: padded tokens per forward pass; a longer prompt goes alone.
    names: what to call the prompts in errors, by default their index.
    Raises JobError when a letter is not one token of its own, a prompt exceeds the context, or a score is
    not finite.
    """
    names = names or [str(i) for i in range(len(prompts))]
    sequences = _token_ids(tokenizer, prompts)
    _check_context(model, sequences, names)
    ids = _letter_tokens(tokenizer, prompts, sequences, max(num_options), names)
    _check_head(model, sequences[0])
    targets = torch.tensor(ids, device=model.device)
    results: dict[int, LetterScore] = {}
    for batch, hidden in _hidden_states(model, sequences, batch_tokens):
        last = torch.tensor([len(sequences[i]) - 1 for i in batch], device=model.device)
        rows = hidden[torch.arange(len(batch), device=model.device), last]
        picked = _log_probs(model, rows, targets.expand(len(batch), -1)).cpu()
        for i, log_probs in zip(batch, picked, strict=True):
            own = log_probs[: num_options[i]]
            mass = own.double().exp().sum().item()
            results[i] = LetterScore(own.tolist(), min(1.0, mass), len(sequences[i]))
    scored = [results[i] for i in range(len(prompts))]
    _check_finite([s.scores for s in scored], names)
    return scored


def option_text_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    batch_tokens: int,
    names: Sequence[str] | None = None,
) -> list[OptionTextScore]:
    """Score each option's text after its prompt, one sequence per option, in the order of the prompts.

    Arguments and errors as for `letter_scores`; an option must add at least one token.
    """
    names = names or [str(i) for i in range(len(prompts))]
    contexts = _token_ids(tokenizer, prompts)
    owners = [i for i, texts in enumerate(options) for _ in texts]
    answers = [continuation(option) for texts in options for option in texts]
    whole = [prompts[i] + answer for i, answer in zip(owners, answers, strict=True)]
    sequences = _token_ids(tokenizer, whole)
    starts = [len(contexts[i]) for i in owners]
    for i, sequence, start in zip(owners, sequences, starts, strict=True):
        if sequence[:start] != contexts[i] or len(sequence) == start:
            raise JobError(f"item '{names[i]}': an option's tokens do not simply follow those of its prompt")
    _check_context(model, sequences, [names[i] for i in owners])
    _check_head(model, sequences[0])
    summed = [0.0] * len(sequences)
    for batch, hidden in _hidden_states(model, sequences, batch_tokens):
        lengths = [len(sequences[i]) - starts[i] for i in batch]
        # the token at position t is predicted at t - 1
        rows = torch.cat([hidden[j, starts[i] - 1 : len(sequences[i]) - 1] for j, i in enumerate(batch)])
        targets = torch.tensor([t for i in batch for t in sequences[i][starts[i] :]], device=model.device)
        picked = _log_probs(model, rows, targets[:, None])[:, 0].double().cpu()
        for i, log_probs in zip(batch, torch.split(picked, lengths), strict=True):
            summed[i] = log_probs.sum().item()
    scored, at = [], 0
    for context, texts in zip(contexts, options, strict=True):
        span = slice(at, at + len(texts))
        num_tokens = [len(sequence) - len(context) for sequence in sequences[span]]
        scored.append(OptionTextScore(summed[span], num_tokens, len(context)))
        at += len(texts)
    _check_finite([s.scores for s in scored], names)
    return scored


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of at most `batch_tokens` padded tokens, or of one sequence; longest first."""
    batches: list[list[int]] = []
    widest = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * widest <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
            widest = lengths[i]
    return batches


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids with the tokenizer's own special tokens: where it adds a BOS, that stays, as in lm-eval."""
    encoded = tokenizer(list(texts), padding=False, truncation=False)["input_ids"]
    return [list(ids) for ids in encoded]


def _letter_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sequences: Sequence[list[int]],
    num_letters: int,
    names: Sequence[str],
) -> list[int]:
    """The token each letter is after a prompt.

    It is read off prompt + " A", not off " A" alone: SentencePiece tokenizers put a second space in front of
    a text, so that " A" alone becomes two tokens. That every prompt ends alike is checked with one letter.
    """
    known = letters(num_letters)
    follow = _token_ids(tokenizer, [prompts[0] + continuation(letter) for letter in known])
    first = _token_ids(tokenizer, [prompt + continuation(known[0]) for prompt in prompts])
    for letter, ids in zip(known, follow, strict=True):
        if ids[:-1] != sequences[0]:
            raise JobError(f"' {letter}' is no token of its own (item '{names[0]}'); use option_text")
    tokens = [ids[-1] for ids in follow]
    if len(set(tokens)) != len(tokens) or tokenizer.unk_token_id in tokens:
        raise JobError(f"the tokenizer does not tell the letters {known} apart; use option_text")
    for name, prompt_ids, ids in zip(names, sequences, first, strict=True):
        if ids != [*prompt_ids, tokens[0]]:
            raise JobError(f"' {known[0]}' changes how a prompt is split (item '{name}'); use option_text")
    return tokens


def _check_context(model: PreTrainedModel, sequences: Sequence[list[int]], names: Sequence[str]) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not all(sequences):
        raise JobError(f"the prompt of item '{names[list(map(bool, sequences)).index(False)]}' has no tokens")
    if limit is None:
        return
    lengths = [len(ids) for ids in sequences]
    too_long = list(dict.fromkeys(n for n, length in zip(names, lengths, strict=True) if length > limit))
    if too_long:
        raise JobError(
            f"{len(too_long)} items are longer than the model's context of {limit} tokens "
            f"(the longest has {max(lengths)}): {', '.join(too_long[:NAMED])}"
        )


def _check_finite(scores: Sequence[Sequence[float]], names: Sequence[str]) -> None:
    for name, values in zip(names, scores, strict=True):
        if not bool(torch.isfinite(torch.tensor(values)).all()):
            raise JobError(f"item '{name}': scores {values} are not finite; check the weights, or try fp32")


@torch.inference_mode()
def _hidden_states(
    model: PreTrainedModel, sequences: Sequence[list[int]], batch_tokens: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Batches as indices (B,) and last hidden states (B, T, H), padded on the right."""
    for batch in length_batches([len(ids) for ids in sequences], batch_tokens):
        width = max(len(sequences[i]) for i in batch)
        input_ids = torch.zeros((len(batch), width), dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        for row, i in enumerate(batch):
            input_ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
            attention_mask[row, : len(sequences[i])] = 1
        output = model.base_model(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            use_cache=False,
        )
        yield batch, output.last_hidden_state


def _head(model: PreTrainedModel) -> torch.nn.Linear:
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    return head


@torch.inference_mode()
def _logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """The output head with its final soft-cap, float32. hidden: (N, H); returns (N, V)."""
    logits: torch.Tensor = _head(model)(hidden).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.inference_mode()
def _log_probs(model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of tokens over the full vocabulary, nats, float32.

    hidden: (N, H). targets: (N, K) token ids. Returns (N, K).
    """
    vocabulary = _head(model).weight.shape[0]
    rows = max(1, LOGITS_BYTES // (4 * vocabulary))
    pieces = [
        torch.log_softmax(_logits(model, part), dim=-1).gather(1, wanted)
        for part, wanted in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
    ]
    return torch.cat(pieces)


@torch.inference_mode()
def _check_head(model: PreTrainedModel, sequence: list[int]) -> None:
    """Refuse a model whose own logits are not its head (and soft-cap) on its last hidden state.

    Some architectures scale their logits; scores without that would be wrong and look right.
    """
    input_ids = torch.tensor([sequence[:8]], device=model.device)
    own = model(input_ids=input_ids, use_cache=False).logits[0].float()
    ours = _logits(model, model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[0])
    # bf16 has 8 bits; not a number is another check's business
    tolerance = 0.02 * own.abs().max().item()
    if bool(((own - ours).abs() > tolerance).any()):
        raise JobError(f"{type(model).__name__} changes its logits after the head; that is not handled")
