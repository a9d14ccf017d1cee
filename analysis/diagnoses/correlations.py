"""tables/correlations.csv: do results depend on a language's resources, or on how its items were translated?

Spearman's rank correlation over languages with the Joshi class, 0 poor to 5 rich, and means by Global-MMLU's
kinds of translation. p-values are not corrected for the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from analysis.diagnoses.rows import Row, Table, finished
from analysis.metrics.diagnostics import by_translation, resource_correlation
from analysis.reading.headline import BY_NAME, has
from analysis.reading.shards import Cell, Study, Test
from analysis.results.table import Row as TableRow
from analysis.results.table import summarise
from study.languages import LANGUAGES

METRICS = (
    "accuracy",
    "confidence_raw",
    "confidence_renormalised",
    "ece_raw",
    "ece_renormalised",
    "gap_raw",
    "gap_renormalised",
)
KINDS = ("orig", "H", "B", "M")
COLUMNS = (
    "spearman_joshi",
    "p_value",
    "num_languages",
    *(f"{what}_{kind}" for kind in KINDS for what in ("mean", "num_languages")),
)
MIN_LANGUAGES = 4


def correlation_rows(study: Study, test: Test) -> Iterator[tuple[Cell, Row]]:
    """Rows of each cell, and of the means over its seeds: the metrics, and their change against the base."""
    runs = [cell for cell in study.runs() if study.select(test, cell)]
    groups = [cell for cell in study.groups() if sum(run.without("seed") == cell for run in runs) > 1]
    bases = {cell.get("model"): cell for cell in runs if cell.is_base}
    for cell in [*runs, *groups]:
        summaries = _by_language(study, test, cell)
        base = bases.get(cell.get("model"))
        before = {} if cell.is_base or base is None else _by_language(study, test, base)
        num_seeds = max(summary.num_seeds for summary in summaries.values())
        for metric in METRICS:
            if metric in BY_NAME and not has(test[2], BY_NAME[metric]):
                continue
            keys = {"metric": metric, "num_seeds": num_seeds}
            yield cell, _row({**keys, "quantity": "value"}, summaries, {}, metric)
            if before:
                yield cell, _row({**keys, "quantity": "change against base"}, summaries, before, metric)


def _by_language(study: Study, test: Test, cell: Cell) -> dict[str, TableRow]:
    """The languages that the project's table has."""
    chosen = [code for code in study.languages() if code in LANGUAGES and study.select(test, cell, code)]
    return {code: summarise(study.select(test, cell, code)) for code in chosen}


def _row(keys: Row, summaries: Mapping[str, TableRow], before: Mapping[str, TableRow], metric: str) -> Row:
    compared = (summaries, before) if before else (summaries,)
    job_ids = [job_id for cell in compared for summary in cell.values() for job_id in summary.job_ids]
    complete = [{code for code in cell if cell[code].metrics is not None} for cell in compared]
    lacking = summaries.keys() - set.intersection(*complete)
    if lacking:
        return finished(keys, f"{len(lacking)} of {len(summaries)} languages missing", job_ids)
    values = {
        code: _number(summary, metric) - (_number(before[code], metric) if before else 0.0)
        for code, summary in summaries.items()
    }
    numbers: Row = {"num_languages": len(values)}
    for kind, (mean, count) in by_translation(values).items():
        numbers |= {f"mean_{kind}": mean, f"num_languages_{kind}": count}
    reason = _why_not(values)
    if reason is None:
        correlation = resource_correlation(values)
        numbers |= {"spearman_joshi": correlation.rho, "p_value": correlation.p_value}
    return {**finished(keys, numbers, job_ids), "missing": reason}


def _number(row: TableRow, metric: str) -> float:
    assert row.metrics is not None  # none of the languages is missing
    return row.metrics[metric]


def _why_not(values: Mapping[str, float]) -> str | None:
    """Why there is no rank correlation; None if there is one."""
    if len(values) < MIN_LANGUAGES:
        return f"{len(values)} languages, a correlation needs {MIN_LANGUAGES}"
    if len({LANGUAGES[code].joshi for code in values}) == 1:
        return "all languages are of one Joshi class"
    return "the numbers are all equal" if len(set(values.values())) == 1 else None


TABLE = Table("correlations", ("metric", "quantity"), COLUMNS, test_rows=correlation_rows)
