"""One self-contained dashboard.html: numbers, figures and a table that need no network, now or later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.aggregate import BUCKETS, Shard, Study, Summary, load_study, summarise
from analysis.diagrams import NUM_COLOURS, bucket_of, error_figure, language_text, level_figure
from analysis.labels import Series, Setting, axis_text, constants, settings
from analysis.measure import Metrics
from analysis.reliability import reliability_figure
from study.bins import NUM_BINS
from study.files import write_atomic
from study.paths import StudyPaths

TEMPLATE = Path(__file__).with_name("dashboard.html.jinja")
HEADLINES = (
    ("accuracy", "Accuracy"),
    ("confidence_raw", "Confidence, raw"),
    ("confidence_renormalised", "Confidence, renormalised"),
    ("ece_raw", "ECE, raw"),
    ("ece_renormalised", "ECE, renormalised"),
)
COLUMNS = (
    ("accuracy", "Accuracy"),
    ("confidence_raw", "Conf. raw"),
    ("confidence_renormalised", "Conf. ren."),
    ("ece_raw", "ECE raw"),
    ("ece_floor_raw", "floor"),
    ("ece_renormalised", "ECE ren."),
    ("ece_floor_renormalised", "floor"),
    ("nll", "NLL"),
    ("brier", "Brier"),
    ("option_mass", "Mass"),
)
MAX_MISSING = 200
"""Missing shards listed one by one; tables/ has them all."""


@dataclass(frozen=True)
class Field:
    """One number of the page: as text, and as a value to sort by (empty where missing)."""

    text: str
    value: str


def write_dashboard(study_dir: Path, *, study: Study | None = None) -> Path:
    """Write dashboard.html into a study folder; its path.

    study: the study as loaded already. Raises UserError where the folder is not a study.
    """
    path = StudyPaths(Path(study_dir)).dashboard
    write_atomic(path, render(study or load_study(study_dir)))
    return path


def render(study: Study) -> str:
    """The page."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    found = settings(study)
    return template.render(
        study=study,
        constants=constants(study),
        sections=[_section(study, setting) for setting in found],
        columns=COLUMNS,
        headlines=HEADLINES,
        missing=[
            _missing(shard.cell.axes, shard.language, str(shard.missing), shard.job_id)
            for shard in study.missing
        ],
        max_missing=MAX_MISSING,
        num_bins=NUM_BINS,
        num_colours=NUM_COLOURS,
        figures=[
            {
                "levels": level_figure(study, setting),
                "errors": error_figure(study, setting),
                "reliability": reliability_figure(study, setting),
            }
            for setting in found
        ],
        plotly=get_plotlyjs(),
    )


def _missing(axes: Sequence[tuple[str, Any]], language: str, reason: str, job_id: str) -> dict[str, str]:
    cell = " · ".join(axis_text(axis, value) for axis, value in axes)
    return {"cell": cell, "language": language_text(language), "reason": reason, "job_id": job_id}


def _section(study: Study, setting: Setting) -> dict[str, Any]:
    totals = [
        (item, summarise(shards))
        for item in setting.series
        if (shards := study.select(setting.test, item.cell))
    ]
    return {
        "label": setting.label,
        "headlines": [_headline(item, total, totals[0][1]) for item, total in totals],
        "findings": findings(study, setting),
        "rows": [row for item in setting.series for row in _rows(study, setting, item)],
    }


def _headline(item: Series, total: Summary, reference: Summary) -> dict[str, Any]:
    """The macro means of one cell, each with its difference to the first cell of the setting."""
    numbers = []
    for metric, _ in HEADLINES:
        value = getattr(total.metrics, metric, None)
        start = getattr(reference.metrics, metric, None)
        change = "" if value is None or start is None or total is reference else f"{value - start:+z.3f}"
        numbers.append({"text": "missing" if value is None else f"{value:.3f}", "change": change})
    return {
        "label": item.label,
        "seeds": total.num_seeds,
        "shards": len(total.shards),
        "missing": total.missing,
        "numbers": numbers,
    }


def _rows(study: Study, setting: Setting, item: Series) -> list[dict[str, Any]]:
    """The table's rows of one cell: each language, each bucket, all."""
    shards = study.select(setting.test, item.cell)
    groups: list[tuple[str, str, bool, list[Shard]]] = []
    for code in study.languages():
        if members := study.select(setting.test, item.cell, code):
            groups.append((language_text(code), bucket_of(code), False, members))
    for bucket in BUCKETS:
        if members := [shard for shard in shards if shard.bucket == bucket]:
            groups.append((f"{bucket}, macro", bucket, True, members))
    if shards:
        groups.append(("all, macro", "all", True, shards))
    rows = []
    for order, (name, bucket, is_mean, members) in enumerate(groups):
        summary = summarise(members)
        rows.append(
            {
                "name": name,
                "order": order,
                "bucket": bucket,
                "is_mean": is_mean,
                "cell": item.label,
                "seeds": summary.num_seeds,
                "missing": summary.missing,
                "n": summary.metrics.n if summary.metrics else None,
                "fields": [_field(summary.metrics, metric) for metric, _ in COLUMNS],
                "job_ids": summary.job_ids,
            }
        )
    return rows


def _field(metrics: Metrics | None, metric: str) -> Field:
    value = getattr(metrics, metric, None)
    return Field("-", "") if value is None else Field(f"{value:.3f}", repr(value))


def findings(study: Study, setting: Setting) -> list[str]:
    """What changed between cells, in sentences, counted over the languages that both cells have.

    The first trained cell is set against the base model, the others (more smoothing) against the first.
    """
    base = [item for item in setting.series if item.cell.is_base]
    trained = [item for item in setting.series if not item.cell.is_base]
    found = []
    if base and trained:
        for metrics in (HEADLINES[1:3], HEADLINES[:1], HEADLINES[3:]):
            found.append(_compare(study, setting, base[0], trained[0], metrics))
    found += [_compare(study, setting, trained[0], item, HEADLINES[3:]) for item in trained[1:]]
    return [sentence for sentence in found if sentence]


def _compare(
    study: Study, setting: Setting, old: Series, new: Series, metrics: Sequence[tuple[str, str]]
) -> str:
    """`SFT against base. ECE, raw: rose in 12 of 13 languages, ...`; empty without a common language."""
    pairs = [
        (before, after)
        for code in study.languages()
        if (before := _mean_of(study, setting, old, code)) and (after := _mean_of(study, setting, new, code))
    ]
    if not pairs:
        return ""
    parts = []
    for metric, title in metrics:
        changes = [getattr(after, metric) - getattr(before, metric) for before, after in pairs]
        mean = sum(changes) / len(changes)
        verb = "fell" if mean < 0 else "rose"
        count = sum(change < 0 if mean < 0 else change > 0 for change in changes)
        parts.append(f"{title}: {verb} in {count} of {len(changes)} languages, {mean:+z.3f} on average")
    return f"{new.label} against {old.label}. {'; '.join(parts)}."


def _mean_of(study: Study, setting: Setting, item: Series, language: str) -> Metrics | None:
    shards = study.select(setting.test, item.cell, language)
    return summarise(shards).metrics if shards else None
