"""`publish`: a study's tables and figures as a W&B report and a workspace, next to the runs they come from.

A run of type `analyse` holds the figures and the files. Its id is a hash of the results, so the same results
are one run, however often they are published. The report is found by its title and the workspace by its name;
both are replaced each time, so changes that people make in them are lost.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.dashboard.page import write_dashboard
from analysis.exchange.wandb_runs import ASK_TIMEOUT_S, asking_server, patient
from analysis.figures.files import write_figures
from analysis.reading.headline import HEADLINE
from analysis.reading.loading import load_study
from analysis.reading.scored import CONFIDENCES
from analysis.reading.shards import Study
from analysis.results.claims import findings
from analysis.results.names import language_name
from analysis.results.settings import Setting, constants, settings
from analysis.results.table import Row, long_table
from analysis.tables.calibration import table_rows
from analysis.tables.files import write_tables
from analysis.terminal.summary import note
from study.errors import UserError
from study.files import digest, read_json
from study.paths import StudyPaths
from study.tracking.runs import end_service

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = ("slopes", "reliability-buckets", "response")
"""The figures that are published, by how their names begin; the dashboard has all."""
HEADINGS = [metric.long_heading for metric in HEADLINE]
"""The columns of the report's tables behind n."""
TABLE_NOTE = (
    "In brackets 95% intervals. L2 ECE: the root-mean-square calibration error over bins, without the bias "
    "of the ECE; below 0 where a model shows less than noise alone would."
)
MAX_TITLE = 128


@dataclass(frozen=True)
class Published:
    """Addresses of the report and the workspace, and the run behind them."""

    report: str
    workspace: str
    run_id: str
    is_new_run: bool


@dataclass(frozen=True)
class _Content:
    """What is published. figures: PNG files, each shown under its name. files: paths in the study."""

    study: Study
    settings: tuple[Setting, ...]
    figures: tuple[Path, ...]
    files: tuple[str, ...]
    run_id: str

    @property
    def title(self) -> str:
        return f"Calibration: {self.study.name}"[:MAX_TITLE]


def publish(study_dir: Path, project: str | None = None) -> Published:
    """Write the report and the workspace of a study to the W&B server that the user is logged in to.

    project: `ENTITY/PROJECT` or `PROJECT`; by default the one that the study tracks to.
    Raises UserError where the folder is not a study, wandb-workspaces is not installed, nobody is logged in,
    or the server cannot be used.
    """
    _require_workspaces()
    import wandb

    wanted, name = _place(study_dir, project)
    with patient():
        try:
            with asking_server():
                api: Any = wandb.Api(timeout=ASK_TIMEOUT_S)
                own = str(api.default_entity)  # fails here, before the work, where nobody is logged in
                entity = wanted or own
            content = _content(study_dir)
            with asking_server():
                is_new = not _is_there(content, api, f"{entity}/{name}")
            if is_new:
                _log(content, study_dir, entity, name)
                with asking_server():
                    api.flush()
                    if not _is_there(content, api, f"{entity}/{name}"):
                        where = f"{entity}/{name}"
                        raise UserError("W&B did not take every file", where=where, remedy="publish again")
            with asking_server():
                report = _save_report(content, api, entity, name)
                workspace = _save_workspace(content, entity, name)
        finally:
            end_service()
    return Published(report, workspace, content.run_id, is_new)


def _require_workspaces() -> None:
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise UserError(
            "publishing needs wandb-workspaces",
            remedy="type pip install -e '.[publish]' in the checkout, then try again",
        ) from None


def _place(study_dir: Path, project: str | None) -> tuple[str | None, str]:
    """The entity, None for the user's own, and the project."""
    site = StudyPaths(study_dir).site
    tracking = read_json(site)["tracking"] if site.is_file() else {}
    if project is None:
        if not tracking.get("project"):
            remedy = "say where with --project ENTITY/PROJECT"
            raise UserError(
                "has no W&B project, since it was not swept here", where=str(study_dir), remedy=remedy
            )
        return tracking.get("entity") or None, tracking["project"]
    entity, _, name = project.rpartition("/")
    if not name or "/" in entity:
        raise UserError("is not a project", where=project, remedy="give ENTITY/PROJECT")
    return entity or None, name


def _content(study_dir: Path) -> _Content:
    study = load_study(study_dir)
    all_settings = tuple(settings(study))
    figures = tuple(write_figures(study_dir, formats=("png",), study=study, shown=SHOWN))
    drawn = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in figures}
    run_id = digest({"study": study.name, "rows": table_rows(study), "figures": drawn})
    paths = [*write_tables(study_dir, study=study).values(), write_dashboard(study_dir, study=study)]
    files = tuple(path.relative_to(study_dir).as_posix() for path in paths)
    return _Content(study, all_settings, figures, files, run_id)


def _is_there(content: _Content, api: Any, place: str) -> bool:
    """Whether the run has all its files: the SDK also marks runs as finished whose upload failed."""
    try:
        runs = list(api.runs(place, filters={"name": content.run_id}))
    except ValueError as error:
        if "Could not find project" not in str(error):
            raise
        return False
    names = [file.name for run in runs if run.state == "finished" for file in run.files(per_page=500)]
    num_figures = sum(name.startswith("media/images/") for name in names)
    return num_figures >= len(content.figures) and set(content.files) <= set(names)


def _log(content: _Content, study_dir: Path, entity: str, project: str) -> None:
    """Create the run with the figures, the tables and the dashboard."""
    import wandb

    with tempfile.TemporaryDirectory(prefix="calsweep-publish-") as scratch, asking_server():
        run = wandb.init(
            entity=entity,
            project=project,
            dir=scratch,
            id=content.run_id,
            resume="allow",
            mode="online",
            name=content.title,
            job_type="analyse",
            tags=["analyse"],
            settings=wandb.Settings(console="off", x_disable_stats=True, silent=True),
        )
        run.log({path.stem: wandb.Image(str(path)) for path in content.figures})
        for name in content.files:
            run.save(str(study_dir / name), base_path=str(study_dir), policy="now")
        run.finish()


def _save_report(content: _Content, api: Any, entity: str, project: str) -> str:
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    study = content.study
    figures = wr.Runset(
        entity=entity, project=project, name="figures", filters=expr.And(expr.Metric("ID") == content.run_id)
    )
    blocks: list[Any] = [
        wr.P(text) for text in (study.description, " · ".join(constants(study)), note(study)) if text
    ]
    blocks.append(wr.PanelGrid(runsets=[figures], panels=_charts(content)))
    for setting in content.settings:
        blocks += [
            wr.H2(setting.label or study.name),
            *(wr.P(sentence) for sentence in findings(study, setting)),
            wr.P(TABLE_NOTE),
            wr.MarkdownBlock(markdown_table(study, setting)),
            wr.PanelGrid(
                runsets=[
                    wr.Runset(
                        entity=entity,
                        project=project,
                        name=label,
                        filters=expr.And(expr.Metric("ID").isin(ids)),
                    )
                    for label, ids in _job_ids(study, setting).items()
                ],
                panels=_panels(),
            ),
        ]
    report = wr.Report(entity=entity, project=project, title=content.title, blocks=blocks, width="fluid")
    # the server replaces a report only by its id
    known = [one.id for one in api.reports(f"{entity}/{project}") if one.display_name == content.title]
    if known:
        report.id = known[0]
    report.save()
    return str(report.url)


def _save_workspace(content: _Content, entity: str, project: str) -> str:
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    ids = [shard.job_id for shard in content.study.shards]
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=content.title,
        sections=[
            ws.Section(name="Diagrams", panels=_charts(content), is_open=True),
            ws.Section(name="Evaluations", panels=_panels(), is_open=True),
        ],
        runset_settings=ws.RunsetSettings(filters=expr.And(expr.Metric("ID").isin([content.run_id, *ids]))),
    )
    name = digest({"study": content.study.name})[:11]
    try:
        known = ws.Workspace.from_url(f"https://any/{entity}/{project}?nw={name}")
    except ValueError as error:
        if "not found" not in str(error):
            raise
    else:
        workspace._internal_id = known._internal_id
    workspace._internal_name = f"nw-{name}-v"
    workspace.save()
    return str(workspace.url)


def _charts(content: _Content) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.MediaBrowser(
            title=path.stem, media_keys=[path.stem], layout=wr.Layout(x=0, y=16 * place, w=24, h=16)
        )
        for place, path in enumerate(content.figures)
    ]


def _panels() -> list[Any]:
    """For each kind of confidence, a plot of the accuracy against it, and one of the ECE.

    They show what the runs of the evaluations have logged themselves, so without a macro mean or an L2 ECE.
    """
    import wandb_workspaces.reports.v2 as wr

    panels: list[Any] = []
    for row, kind in enumerate(CONFIDENCES):
        # points below the diagonal: over-confident
        scatter = wr.ScatterPlot(
            title=f"accuracy against confidence, {kind}",
            x=wr.SummaryMetric(f"confidence_{kind}"),
            y=wr.SummaryMetric("accuracy"),
            layout=wr.Layout(x=0, y=10 * row, w=12, h=10),
        )
        bars = wr.BarPlot(
            title=f"ECE, {kind}",
            metrics=[wr.Metric(f"ece_{kind}")],
            layout=wr.Layout(x=12, y=10 * row, w=12, h=10),
        )
        panels += [scatter, bars]
    return panels


def _job_ids(study: Study, setting: Setting) -> dict[str, list[str]]:
    return {
        item.label: [shard.job_id for shard in study.select(setting.test, item.cell)]
        for item in setting.series
    }


def markdown_table(study: Study, setting: Setting) -> str:
    """A setting's cells below each other, with 95% intervals: macro means, then each language.

    What is missing has a reason instead of numbers.
    """
    table, cells = long_table(study), [item.cell for item in setting.series]
    titles = {"all": "all, macro"}
    titles |= {bucket: f"{bucket}, macro" for bucket in table.names(setting.test, cells, "bucket")}
    languages = table.names(setting.test, cells, "language")
    titles |= {code: f"{code} {language_name(code)}".strip() for code in languages}
    head = ["", "cell", "n", *HEADINGS]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for name, title in titles.items():
        for item in setting.series:
            lines.append([title, item.label, *_fields(table.row(setting.test, item.cell, name))])
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def _fields(row: Row | None) -> list[str]:
    """n, then a field for each of HEADINGS."""
    if row is None or row.missing is not None:
        return ["not planned" if row is None else str(row.missing), *[""] * len(HEADINGS)]
    texts = [str(row.n)]
    for metric in HEADLINE:
        number = row[metric.name]
        within = "" if number.low is None else f" [{number.low:.3f}, {number.high:.3f}]"
        texts.append("-" if number.value is None else f"{number.value:.3f}{within}")
    return texts


def print_published(published: Published, console: Console) -> None:
    """Print the addresses."""
    state = "with new figures" if published.is_new_run else "with the figures published before"
    for text in (f"report, {state}: {published.report}", f"workspace: {published.workspace}"):
        console.print(text, soft_wrap=True, highlight=False, markup=False)
