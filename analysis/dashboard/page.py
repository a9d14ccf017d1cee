"""One self-contained dashboard.html: claims, figures and a table that need no network, now or later."""

from __future__ import annotations

from pathlib import Path

from analysis.dashboard.data import columns, missing_rows, page_data, to_json
from analysis.reading.headline import HEADLINE
from analysis.reading.loading import load_study
from analysis.reading.shards import Study
from analysis.results.settings import constants
from study.bins import NUM_BINS
from study.files import write_atomic
from study.paths import StudyPaths

TEMPLATES = Path(__file__).parent
MAX_MISSING = 200
"""How many missing shards the page lists; tables/ has them all."""


def write_dashboard(study_dir: Path, *, study: Study | None = None) -> Path:
    """Write dashboard.html into a study folder; returns its path.

    study: where it is loaded already. Raises UserError where the folder is not a study.
    """
    path = StudyPaths(Path(study_dir)).dashboard
    write_atomic(path, render(study or load_study(study_dir)))
    return path


def render(study: Study) -> str:
    """The page."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        study=study,
        constants=constants(study),
        columns=columns(),
        headlines=HEADLINE,
        missing=missing_rows(study),
        max_missing=MAX_MISSING,
        num_bins=NUM_BINS,
        data=to_json(page_data(study)),
        plotly=get_plotlyjs(),
    )
