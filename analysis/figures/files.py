"""Figures for papers: PDF and PNG files in a study's `figures/`, each named by what it shows."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.figures.bins import plot_buckets, plot_histograms, plot_languages
from analysis.figures.data import (
    prepare_changes,
    prepare_diagrams,
    prepare_matrix,
    prepare_responses,
)
from analysis.figures.style import PNG_DPI, house_style
from analysis.figures.values import plot_heat_map, plot_response, plot_slopes
from analysis.reading.headline import HEADLINE, L2_ECE, has
from analysis.reading.loading import load_study
from analysis.reading.scored import CONFIDENCES
from analysis.reading.shards import Study
from analysis.results.settings import Setting, settings
from study.files import write_atomic
from study.paths import StudyPaths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf")
MAX_CELLS = 5
"""Side by side in one figure; a setting with more has several of each, all with the base model."""
MAX_NAME = 120


def write_figures(
    study_dir: Path,
    *,
    formats: Sequence[str] = FORMATS,
    study: Study | None = None,
    shown: tuple[str, ...] = ("",),
) -> Iterator[Path]:
    """Write `figures/` of a study folder; yields each path once its file is written.

    The same study gives the same bytes. study: where it is loaded already. shown: only figures whose names
    begin with one of these. Raises UserError where the folder is not a study.
    """
    study = study or load_study(study_dir)
    folder = StudyPaths(Path(study_dir)).figures
    taken: set[str] = set()
    for setting in (part for of_study in settings(study) for part in _parts(of_study)):
        with house_style():
            figures = _figures(study, setting, shown)
            written = _write(folder, figures, study.name, setting.label, formats, taken)
        yield from written
    for response in prepare_responses(study) if "response".startswith(shown) else ():
        with house_style():
            figures = {"response": plot_response(response)}
            written = _write(folder, figures, study.name, response.label, formats, taken)
        yield from written


def _figures(study: Study, setting: Setting, shown: tuple[str, ...]) -> dict[str, Figure]:
    """The figures of a setting whose names begin with one of `shown`."""
    names = ["confidence", "slopes"]
    for kind in (kind for kind in CONFIDENCES if has(setting.test[2], L2_ECE[kind])):
        names += [f"reliability-languages-{kind}", f"reliability-buckets-{kind}", f"heatmap-ece-l2-{kind}"]
    return {name: _draw(study, setting, name) for name in names if name.startswith(shown)}


def _draw(study: Study, setting: Setting, name: str) -> Figure:
    figure, _, kind = name.rpartition("-")
    if figure == "reliability-languages":
        return plot_languages(prepare_diagrams(study, setting, kind, "language"))
    if figure == "reliability-buckets":
        return plot_buckets(prepare_diagrams(study, setting, kind, "bucket"))
    if figure == "heatmap-ece-l2":
        errors = prepare_matrix(study, setting, L2_ECE[kind])
        return plot_heat_map(errors, prepare_changes(errors) if errors.has_base else None)
    if name == "slopes":
        return plot_slopes(
            [prepare_matrix(study, setting, metric) for metric in HEADLINE if has(setting.test[2], metric)]
        )
    return plot_histograms(*(prepare_diagrams(study, setting, kind, "bucket") for kind in CONFIDENCES))


def _parts(setting: Setting) -> list[Setting]:
    """The setting itself, or several with some of its cells each where they do not fit into one figure."""
    if len(setting.series) <= MAX_CELLS:
        return [setting]
    trained = any(not item.cell.is_base for item in setting.series)
    base = setting.series[:1] if trained and setting.series[0].cell.is_base else ()
    rest, size = setting.series[len(base) :], MAX_CELLS - len(base)
    return [
        replace(
            setting,
            series=base + rest[start : start + size],
            label=" · ".join(part for part in (setting.label, f"part {start // size + 1}") if part),
        )
        for start in range(0, len(rest), size)
    ]


def _write(
    folder: Path,
    figures: Mapping[str, Figure],
    study_name: str,
    about: str,
    formats: Sequence[str],
    taken: set[str],
) -> list[Path]:
    """about: what sets the figures apart from the study's others; may be empty. taken: file names in use."""
    written = []
    for what, figure in figures.items():
        name = _file_name(what, about, taken)
        for suffix in formats:
            title = " · ".join(part for part in (study_name, about, what) if part)
            write_atomic(folder / f"{name}.{suffix}", _content(figure, suffix, title))
            written.append(folder / f"{name}.{suffix}")
    return written


def _file_name(what: str, about: str, taken: set[str]) -> str:
    """`slopes_llama-lr-1e-05`; numbered where models of two organisations share a name."""
    words = re.sub(r"[^\w.+-]+", "-", about).strip("-.")
    name = (f"{what}_{words}" if words else what)[:MAX_NAME]
    count = 1
    while (free := name if count == 1 else f"{name}-{count}").lower() in taken:
        count += 1
    taken.add(free.lower())
    return free


def _content(figure: Figure, suffix: str, title: str) -> bytes:
    """The figure as a file, without a time in it."""
    stream = io.BytesIO()
    metadata = {"Title": title, **({"CreationDate": None} if suffix == "pdf" else {})}
    figure.savefig(stream, format=suffix, dpi=PNG_DPI, metadata=metadata)
    return stream.getvalue()
