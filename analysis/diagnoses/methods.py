"""`methods`: what a paper has to say about a study, as a paragraph and as a reporting card.

Every number comes from the plan, the records or the journals of the jobs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.inference.bootstrap import NUM_REPLICATES
from analysis.reading.loading import load_study
from analysis.reading.shards import Study
from analysis.results.differences import SIGNIFICANT
from analysis.results.selection import Selection, select_learning_rates
from analysis.tables.typesetting import latex_safe
from study import journal
from study.axes import axis_text, value_text
from study.bins import NUM_BINS
from study.files import read_json, write_atomic, write_json
from study.jobs.job import Job
from study.jobs.plan import Plan, read_plan
from study.jobs.specs import VALIDATION_SPLITS, EvalSpec, Source, TrainSpec
from study.paths import StudyPaths

INFERENCE = (
    f"95% intervals are the estimate plus and minus t standard errors, from {NUM_REPLICATES:,} bootstrap "
    "replicates over questions, paired over languages, models and seeds; training seeds add their spread "
    "(paired where they share the order of the data, else Welch). Calibration error: ECE with its floor, and "
    "the root of the squared error estimated without bias (L2 ECE), on which inference rests. Holm within a "
    f"contrast and metric over languages at the level {SIGNIFICANT:g}; false discovery rate over all tests; "
    "equivalence by two one-sided tests."
)
MAX_NAMED = 5
"""Cells with missing evaluations that the card names."""
WHAT_COUNTS = {"train": "training", "prepare": "training", "evaluate": "evaluation"}


@dataclass(frozen=True)
class Methods:
    """What a paper says."""

    paragraph: str
    card: Mapping[str, str]
    """By what it is about."""


def methods(study_dir: Path) -> Methods:
    """The paragraph and the card of a study.

    Raises UserError where the folder is not a study of this version.
    """
    paths = StudyPaths(Path(study_dir))
    plan, study = read_plan(paths), load_study(study_dir)
    card = _card(paths, plan, study, select_learning_rates(study_dir, study))
    return Methods(_paragraph(plan, study, card), card)


def write_methods(study_dir: Path) -> tuple[Methods, list[Path]]:
    """Write tables/methods.md, methods.tex and methods.json, the card for programs."""
    section = methods(study_dir)
    folder = StudyPaths(Path(study_dir)).tables
    write_atomic(folder / "methods.md", to_markdown(section))
    write_atomic(folder / "methods.tex", to_latex(section))
    write_json(folder / "methods.json", section.card)
    return section, [folder / f"methods.{end}" for end in ("md", "tex", "json")]


def to_markdown(section: Methods) -> str:
    """The paragraph, and the card as a table."""
    rows = [f"| {name} | {text.replace('|', chr(92) + '|')} |" for name, text in section.card.items()]
    return "\n".join([section.paragraph, "", "| what | how |", "| :-- | :-- |", *rows]) + "\n"


def to_latex(section: Methods) -> str:
    """The paragraph, and the card as a tabular with booktabs' rules."""
    rows = [rf"{latex_safe(name)} & {latex_safe(text)} \\" for name, text in section.card.items()]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            latex_safe(section.paragraph),
            "",
            r"\begin{tabular}{lp{0.7\linewidth}}",
            r"\toprule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    ) + "\n"  # fmt: skip


def _card(paths: StudyPaths, plan: Plan, study: Study, selections: Sequence[Selection]) -> dict[str, str]:
    trains = [job for job in plan.of_kind("train") if isinstance(job.spec, TrainSpec)]
    evaluations = [job.spec for job in plan.of_kind("evaluate") if isinstance(job.spec, EvalSpec)]
    card = {"models": _several(sorted(_models(plan, trains, evaluations)))}
    if trains:
        card |= _training(trains)
        card["choice of the learning rate"] = _choice(selections)
    card |= _evaluation(evaluations, study)
    card |= {
        "bins": f"{NUM_BINS} of equal width, (lo, hi]",
        "inference": f"{INFERENCE} Margin of equivalence: {study.equivalence_margin:g}.",
        "compute": _compute(paths, plan),
        "software": _software(paths, plan),
        "missing": _missing(study),
    }
    return card


def _models(plan: Plan, trains: Sequence[Job], evaluations: Sequence[EvalSpec]) -> set[str]:
    sources = [job.spec.model for job in trains if isinstance(job.spec, TrainSpec)]
    sources += [spec.model for spec in evaluations]
    prepared = {job.job_id: str(job.cell.get("model")) for job in plan.of_kind("prepare")}
    names = {_named(source) for source in sources if source.kind != "job"}
    return names | {
        f"{prepared[source.name]} (trained from scratch, job {source.name})"
        for source in sources
        if source.kind == "job" and source.name in prepared
    }


def _named(source: Source) -> str:
    return f"{value_text(source.name)} at {source.revision[:12]}"


def _training(trains: Sequence[Job]) -> dict[str, str]:
    specs = [job.spec for job in trains if isinstance(job.spec, TrainSpec)]
    hypers = [spec.hyper for spec in specs]

    def values(name: str) -> str:
        return _several(dict.fromkeys(value_text(getattr(hyper, name)) for hyper in hypers))

    lengths = {
        f"{hyper.num_steps} steps" if hyper.num_steps is not None else f"{hyper.num_epochs} epochs"
        for hyper in hypers
    }
    rows = {"all rows" if h.num_examples is None else f"{h.num_examples} rows by seed" for h in hypers}
    seeds = {job.cell.get("seed") for job in trains}
    return {
        "training data": f"{_several(sorted({_named(s.dataset) for s in specs}))}; {_several(sorted(rows))}",
        "training": f"{_several(sorted(lengths))} of {values('global_batch_size')} examples, "
        f"template {values('template')}, at most {values('max_length_tokens')} tokens, {values('dtype')}, "
        f"warm-up {values('warmup_ratio')}, weight decay {values('weight_decay')}",
        "learning rates": values("learning_rate"),
        "label smoothing": values("label_smoothing"),
        "seeds": f"{len(seeds)} ({_several(sorted(map(str, seeds)))})"
        + ("" if len(seeds) > 1 else "; the study compares checkpoints, not methods"),
    }


def _choice(selections: Sequence[Selection]) -> str:
    several = [selection for selection in selections if len(selection.candidates) > 1]
    if not several:
        return "none: it is fixed"
    chosen = [selection for selection in several if selection.chosen is not None]
    if not chosen:
        return "none: every learning rate is reported"
    texts = {f"{value_text(one.chosen)} by the {one.reason}" for one in chosen}
    return _several(sorted(texts)) + ("" if len(chosen) == len(several) else "; the others were not chosen")


def _evaluation(evaluations: Sequence[EvalSpec], study: Study) -> dict[str, str]:
    card: dict[str, str] = {}
    by_test: dict[tuple[str, str, str], list[EvalSpec]] = {}
    for spec in evaluations:
        by_test.setdefault((spec.benchmark.name, spec.benchmark.split, spec.protocol), []).append(spec)
    for test, specs in by_test.items():
        name = "validation" if test[1] in VALIDATION_SPLITS else "evaluation"
        done = [s.metrics for s in study.shards if s.test == test and s.metrics is not None]
        sizes = sorted({metrics.n for metrics in done})
        chances = sorted({round(1.0 / metrics["chance"], 2) for metrics in done})
        languages = sorted({spec.language for spec in specs})
        prompting = specs[0].prompting
        where = f"{name}: {' '.join(test)}"
        card[where] = (
            f"{_named(specs[0].benchmark.source)}; {len(languages)} languages ({', '.join(languages)}); "
            f"questions of a language: {_span(sizes)}; options: {_span(chances)}"
        )
        card[f"{where}, prompts"] = (
            f"scaffold {prompting.scaffold}, {prompting.num_shots} shots, options in "
            f"{prompting.option_order} order, hash of the prompts' texts {prompting.version}"
        )
    return card


def _missing(study: Study) -> str:
    """How many, and which: languages by cell."""
    languages: dict[str, list[str]] = {}
    for shard in study.missing:
        cell = " ".join(axis_text(axis, value) for axis, value in shard.cell.axes)
        languages.setdefault(f"{cell} on {' '.join(shard.test)}", []).append(shard.language)
    named = [f"{cell}: {' '.join(codes)}" for cell, codes in languages.items()]
    count = f"{len(study.missing)} of {len(study.shards)} evaluations"
    more = f"; and of {len(named) - MAX_NAMED} more cells" if len(named) > MAX_NAMED else ""
    return f"{count} ({'; '.join(named[:MAX_NAMED])}{more})" if named else count


def _span(values: Sequence[float]) -> str:
    if not values:
        return "unknown"
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def _compute(paths: StudyPaths, plan: Plan) -> str:
    """Hours of training and evaluation, from the journals of the jobs.

    Jobs of one task share its devices, so their time counts once; the time before a requeue does not.
    """
    num_unknown = 0
    spans: dict[tuple[str, str, str, int], list[tuple[float, float]]] = {}
    for job in plan.jobs:
        if (what := WHAT_COUNTS.get(job.kind)) is None:
            continue
        folder = paths.job(job.job_id)
        lines = journal.read(folder.attempts)
        devices = _devices(folder.execution) if lines else None
        began: dict[str, tuple[float, str]] = {}
        for line in lines:
            if line["event"] == "begin":
                began[line["attempt"]] = (float(line["time"]), str(line["task"] or job.job_id))
            elif line["attempt"] in began and devices:
                start, task = began.pop(line["attempt"])
                spans.setdefault((what, devices[0], task, devices[1]), []).append(
                    (start, float(line["time"]))
                )
        num_unknown += len(began)
    hours: dict[tuple[str, str], float] = {}
    for (what, unit, _, number), of_task in spans.items():
        hours[what, unit] = hours.get((what, unit), 0.0) + _covered(of_task) / 3600 * number
    if not hours:
        return "unknown: no job has ended"
    texts = [f"{value:.2f} {unit}-hours of {what}" for (what, unit), value in sorted(hours.items())]
    return _several(texts) + (f"; {num_unknown} attempts did not say when they ended" if num_unknown else "")


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, until = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _devices(execution: Path) -> tuple[str, int]:
    """`GPU` or `core`, and how many of them a job has."""
    resources = _read(execution).get("resources") or {}
    gpus = int(resources.get("gpus_per_node", 0)) * int(resources.get("nodes", 1))
    if gpus:
        return "GPU", gpus
    cores = int(resources.get("cpus_per_task", 1)) * int(resources.get("tasks_per_node", 1))
    return "core", max(cores, 1) * int(resources.get("nodes", 1))


def _read(file: Path) -> dict[str, Any]:
    """Nothing from a file that is not there, or was cut off by a kill."""
    try:
        content = read_json(file) if file.is_file() else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _software(paths: StudyPaths, plan: Plan) -> str:
    """The code and libraries that jobs ran with, each combination once."""
    stacks: set[str] = set()
    for job in plan.jobs:
        env = _read(paths.job(job.job_id).env)
        versions, code = env.get("versions"), env.get("code")
        if isinstance(versions, dict):
            texts = [f"{name} {version}" for name, version in sorted(versions.items()) if version]
            if isinstance(code, dict):
                commit = f" (commit {str(code['git_commit'])[:12]})" if code.get("git_commit") else ""
                texts.insert(0, f"calsweep code {code.get('code')}{commit}")
            stacks.add(", ".join(texts))
    return " or ".join(sorted(stacks)) or "unknown: no job says"


def _paragraph(plan: Plan, study: Study, card: Mapping[str, str]) -> str:
    num_trained = len(plan.of_kind("train"))
    sentences = []
    if num_trained:
        sentences.append(
            f"We fine-tuned {card['models']} on {card['training data']} ({card['training']}), with learning "
            f"rates {card['learning rates']}, label smoothing {card['label smoothing']} and seeds "
            f"{card['seeds']}: {num_trained} trainings."
        )
        sentences.append(f"Choice of the learning rate: {card['choice of the learning rate']}.")
    else:
        sentences.append(f"We evaluated {card['models']}.")
    for name, text in card.items():
        if name.startswith(("evaluation", "validation")) and not name.endswith("prompts"):
            where, test = name.split(": ", 1)
            sentences.append(f"{where.capitalize()} is on {test} ({text}; {card[f'{name}, prompts']}).")
    sentences.append(
        "Confidence is the probability of the chosen option among the options (renormalised), and over the "
        f"full vocabulary (raw). Bins of the ECE: {card['bins']}. {card['inference']}"
    )
    if study.missing:
        sentences.append(f"Missing: {card['missing']}.")
    return " ".join(sentences)


def _several(texts: Iterable[str]) -> str:
    return ", ".join(texts)
