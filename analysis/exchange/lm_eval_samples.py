"""Samples of multiple_choice tasks that lm-evaluation-harness logged, read as predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from study.errors import RecordError, UserError
from study.languages import LANGUAGES
from study.rows import Row, parse_line

if TYPE_CHECKING:
    from study.records import Prediction

UNKNOWN = -1
"""The number of tokens of a prompt that nobody counted."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KEYS = ("doc", "doc_hash", "prompt_hash", "target", "resps", "arguments", "metrics", "filter")
"""Keys of a sample. All but `filter` are the same in each of its copies, one for each filter of the task."""
IDS = ("sample_id", "question_id")
"""Under these keys Global-MMLU and MMLU-ProX have the id of an item, the same in every language."""

CountTokens: TypeAlias = Callable[[str, str], tuple[int, int]]
"""A prompt and an option after it -> tokens of each."""


@dataclass(frozen=True)
class Task:
    """What the name of a task says."""

    name: str
    benchmark: str
    language: str
    subject: str
    split: str


def name_task(name: str, config: Mapping[str, Any], groups: Sequence[str], given: str | None) -> Task:
    """Split the name of a task.

    `global_mmlu_full_sw_anatomy` is subject anatomy of benchmark global_mmlu_full in Swahili. If a name has
    no language, it is `given`, and the name of a group of tasks, such as mmlu, is the benchmark.
    Raises RecordError if there is no language, or more than one.
    """
    words = name.split("_")
    places = [place for place, word in enumerate(words) if place and word in LANGUAGES]
    named = [place for place in places if words[place] == config.get("dataset_name")]
    split = config.get("test_split") or config.get("validation_split") or "test"
    if len(named or places) > 1:
        raise RecordError(f"task {name}: its language may be any of {', '.join(words[p] for p in places)}")
    if places:
        (place,) = named or places
        return Task(name, "_".join(words[:place]), words[place], "_".join(words[place + 1 :]), split)
    if given is None:
        raise RecordError(f"task {name}: its name has no language; say which with --language")
    above = [group for group in groups if name.startswith(f"{group}_")]
    benchmark = min(above, key=len, default=name)
    return Task(name, benchmark, given, name[len(benchmark) + 1 :], split)


def read_samples(file: Path) -> tuple[Row, ...]:
    """The sample of each document once: the harness logs it once for each filter of a task.

    Raises RecordError, with the line, for a line that is not a sample, or is from another run.
    """
    samples: dict[int, Row] = {}
    lines = file.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, start=1):
        where = f"{file}, line {number}"
        sample = parse_line(line, where)
        try:
            types = (type(sample["doc_id"]), type(sample["doc_hash"]), type(sample["prompt_hash"]))
            if types != (int, str, str):
                raise TypeError("doc_id, doc_hash, prompt_hash")
            first = samples.setdefault(sample["doc_id"], sample)
            same = all(first[key] == sample[key] for key in KEYS if key != "filter")
            again = first is not sample and first["filter"] == sample["filter"]
        except (KeyError, TypeError) as error:
            raise RecordError(f"{where}: is not a sample of lm_eval ({error!r})") from None
        if again or not same:
            raise RecordError(f"{where}: document {sample['doc_id']} a second time; keep one run's samples")
    if not samples:
        raise RecordError(f"{file}: holds no samples")
    return tuple(samples.values())


def predictions_of(
    task: Task, file: Path, samples: Sequence[Mapping[str, Any]], count: CountTokens | None
) -> tuple[str, list[Prediction]]:
    """The protocol of a task, and the predictions of its samples. count: for options that are text.

    Raises RecordError if a sample is not multiple_choice, or has scores that are not log-probabilities.
    """
    read = []
    for sample in samples:
        where = f"{file}, document {sample['doc_id']}"
        try:
            read.append((sample, *_asked(sample, where)))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise RecordError(f"{where}: is not a multiple_choice sample ({error!r})") from None
    letters = all([o.strip() for o in options] == list(LETTERS[: len(options)]) for _, _, options, _ in read)
    if not letters and count is None:
        raise RecordError(
            f"task {task.name}: its options are text, and how many tokens they have was not logged; "
            "give the model's tokenizer with --tokenizer"
        )
    ids = _example_ids(task, samples)
    predictions = [
        _prediction(task, file, example_id, *asked, letters=letters, count=count)
        for example_id, asked in zip(ids, read, strict=True)
    ]
    return ("letter" if letters else "option_text"), predictions


def _example_ids(task: Task, samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The benchmark's own ids, if each document has one that no other has; else their places in the task."""
    docs = [sample["doc"] if isinstance(sample["doc"], dict) else {} for sample in samples]
    for key in IDS:
        own = [str(doc[key]) for doc in docs if doc.get(key) is not None]
        if len(set(own)) == len(docs):
            return own
    head = f"{task.subject}/" if task.subject else ""
    return [f"{head}{sample['doc_id']}" for sample in samples]


def _asked(sample: Mapping[str, Any], where: str) -> tuple[str, list[str], list[float]]:
    """A sample's prompt, its options and their scores, in nats."""
    pairs = [(request["arg_0"], request["arg_1"]) for request in sample["arguments"].values()]
    scores = [float(answer[0][0]) for answer in sample["resps"]]
    if len(scores) != len(pairs) or any(len(answer) != 1 for answer in sample["resps"]):
        raise RecordError(f"{where}: {len(scores)} scores for {len(pairs)} options")
    if "acc_mutual_info" in sample["metrics"]:  # the second half are the options without the prompt
        half = len(pairs) // 2
        if [o for _, o in pairs[half:]] != [o for _, o in pairs[:half]] or any(p for p, _ in pairs[half:]):
            raise RecordError(f"{where}: its unconditional scores are not those of its options")
        pairs, scores = pairs[:half], scores[:half]
    options = [option for _, option in pairs]
    if len({prompt for prompt, _ in pairs}) != 1:
        raise RecordError(f"{where}: its options are prompts: their scores do not share one distribution")
    if len(options) < 2 or len(set(options)) != len(options):
        raise RecordError(f"{where}: its options are {options}, but must be two or more, none twice")
    if not all(math.isfinite(score) and score <= 0 for score in scores):
        raise RecordError(f"{where}: scores {scores} are not log-probabilities")
    return pairs[0][0], options, scores


def _prediction(
    task: Task,
    file: Path,
    example_id: str,
    sample: Mapping[str, Any],
    prompt: str,
    options: Sequence[str],
    scores: Sequence[float],
    *,
    letters: bool,
    count: CountTokens | None,
) -> Prediction:
    from study.records import Prediction

    doc: Mapping[str, Any] = sample["doc"] if isinstance(sample["doc"], dict) else {}
    counted = [] if count is None else [count(prompt, option) for option in options]
    return Prediction(
        example_id=example_id,
        subject=str(doc.get("subject") or task.subject or task.name),
        label=_label(file, sample, options, scores),
        scores=scores,
        option_mass=min(1.0, math.fsum(map(math.exp, scores))) if letters else None,
        option_num_tokens=None if letters else [num_tokens for _, num_tokens in counted],
        rotation=0,
        num_prompt_tokens=counted[0][0] if counted else UNKNOWN,
    )


def _label(file: Path, sample: Mapping[str, Any], options: Sequence[str], scores: Sequence[float]) -> int:
    """The right option: a target is its text, or its place as a number.

    If `acc` is logged, the label must agree with it; this also decides where a target could be either.
    """
    target, where = str(sample["target"]), f"{file}, document {sample['doc_id']}"
    labels = {place for place, option in enumerate(options) if option.strip() == target.strip()}
    if target.isdecimal() and int(target) < len(options):
        labels.add(int(target))
    best = scores.index(max(scores))
    if "acc" in sample:
        labels = {place for place in labels if (place == best) == (sample["acc"] == 1.0)}
    if len(labels) != 1:
        problem = "does not agree with its accuracy, or is" if "acc" in sample else "is"
        raise RecordError(f"{where}: target {target!r} {problem} not one of the options {list(options)}")
    return labels.pop()


def token_counter(tokenizer: Path) -> CountTokens:
    """A function that counts tokens as the harness does. tokenizer: a `tokenizer.json`, or its folder.

    Raises UserError if there is none.
    """
    from tokenizers import Tokenizer

    file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    if not file.is_file():
        raise UserError("there is no such file", where=str(file), remedy="give the model's tokenizer.json")
    loaded = Tokenizer.from_file(str(file))

    def count(prompt: str, option: str) -> tuple[int, int]:
        # like the harness: blanks at the end of the prompt belong to the option
        kept = prompt.rstrip()
        before = len(loaded.encode(kept).ids)
        return before, len(loaded.encode(kept + prompt[len(kept) :] + option).ids) - before

    return count
