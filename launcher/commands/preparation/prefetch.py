"""`calsweep prefetch`: download on the login node what a study needs from the Hugging Face hub.

Jobs can then run with HF_HUB_OFFLINE=1. The downloads run in a separate process with the variables of the
cluster profile, since the hub's clients read HF_HOME and similar variables when they are imported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from launcher.planning.plan import build_plan
from launcher.planning.sites import Site, SlurmSite, load_site, read_site
from launcher.state.lookup import open_study
from study.benchmarks.definition import definition_of, definitions
from study.errors import CalsweepError, UserError
from study.files import write_atomic
from study.grid.config import Grid, load_grid
from study.grid.sources import dataset_repository, hub_cache, is_commit, require_commit
from study.grid.yaml_files import errors_with_lines
from study.jobs.plan import Plan
from study.jobs.specs import EvalSpec, Source, TrainSpec
from study.paths import ROOT
from study.terminal import make_console

TIMEOUT_S = 20
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
WEIGHTS = "*.safetensors"
# no .bin and no other pickles; tokenizers may be sentencepiece models or word lists
MODEL_FILES = [WEIGHTS, "*.json", "*.model", "*.txt", "*.jinja"]
# sub-folders and `consolidated` files hold the same weights again, for other programs
NOT_MODEL_FILES = ["*/*", "consolidated*"]


@dataclass(frozen=True)
class Wanted:
    """One download. config, split: of a dataset; None for a model, and for a dataset without configs."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        what = f" ({self.config}, {self.split})" if self.config else ""
        return f"{self.kind} {self.name}{what} at {self.revision[:12]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, metavar="GRID.yaml", help="a grid file, or a study's folder")


def run(options: argparse.Namespace) -> int:
    if options.study.is_dir():  # as it was planned, whatever the hub's branches point to today
        plan, paths = open_study(options.study)
        grid, site = load_grid(paths.grid), read_site(paths.site)
    else:
        with errors_with_lines(options.study):
            grid = load_grid(options.study)
            plan, site = build_plan(grid), load_site(grid)
    items = prefetch(plan, grid, site, make_console())
    print(f"{len(items)} downloads are complete" if items else "the grid needs nothing from the hub")
    return 0


def wanted(plan: Plan) -> list[Wanted]:
    """Everything a plan needs from the hub, each once: models, datasets, then languages of benchmarks."""
    downloads: dict[Wanted, None] = {}
    for job in plan.jobs:
        if isinstance(job.spec, TrainSpec | EvalSpec) and job.spec.model.kind == "hub":
            downloads[Wanted("model", job.spec.model.name, job.spec.model.revision)] = None
    for job in plan.jobs:
        if isinstance(job.spec, TrainSpec) and job.spec.dataset.kind == "hub":
            source = job.spec.dataset
            downloads[Wanted("dataset", source.name, source.revision, None, "train")] = None
    for job in plan.jobs:
        if isinstance(job.spec, EvalSpec) and job.spec.benchmark.source.kind == "hub":
            benchmark, source = job.spec.benchmark, job.spec.benchmark.source
            definition = definition_of(benchmark.name)
            config = definition.configs.get(job.spec.language, job.spec.language)
            shots = definition.shot_split if job.spec.prompting.num_shots else None
            for split in filter(None, (benchmark.split, shots)):
                downloads[Wanted("dataset", source.name, source.revision, config, split)] = None
    return list(downloads)


def prefetch(plan: Plan, grid: Grid, site: Site, console: Console) -> list[Wanted]:
    """Download what the plan needs from the hub, unless it is in the cache already.

    A name that the grid does not pin to a commit is pinned in the cache to the commit of the plan, so that
    later plans get the same ids, also without a network.
    Raises UserError, after everything else was fetched, when something cannot be downloaded.
    """
    items = wanted(plan)
    problems = []
    for number, (item, problem) in enumerate(_fetched(items, site, console), start=1):
        mark = "[red]failed[/]" if problem else "here"
        console.print(f"  {number}/{len(items)}  {mark}  {escape(str(item))}", soft_wrap=True)
        if problem:
            problems.append((item, problem))
    _pin(grid, items, failed={(item.kind, item.name) for item, _ in problems})
    if problems:
        item, problem = problems[0]
        more = f" (and {len(problems) - 1} more failed)" if len(problems) > 1 else ""
        raise UserError(f"{problem['what']}{more}", where=str(item), remedy=problem["remedy"])
    return items


def _fetched(
    items: Sequence[Wanted], site: Site, console: Console
) -> Iterator[tuple[Wanted, dict[str, str] | None]]:
    """Each item as soon as it is fetched, with None or its problem."""
    if not items:
        return
    given = site.profile.env if isinstance(site, SlurmSite) else {}
    env = {key: value for key, value in {**os.environ, **given}.items() if key not in OFFLINE_SWITCHES}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    if not console.is_terminal:
        env["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # -P: with -c alone, folders of the working directory would come before ROOT
    code = "from launcher.commands.preparation.prefetch import fetch_all; fetch_all()"
    command = [sys.executable, "-P", "-c", code]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with (
                contextlib.suppress(BrokenPipeError),
                child.stdin,
            ):  # a child that has ended is reported below
                child.stdin.write(json.dumps([asdict(item) for item in items]))
            count = 0
            for count, line in enumerate(child.stdout, start=1):
                yield items[count - 1], json.loads(line)
        except BaseException:
            child.kill()
            raise
    if count < len(items):
        raise CalsweepError(f"the download of {items[count]} ended with code {child.returncode}, see above")


def fetch_all() -> None:
    """In the child: read items on standard input and answer each with a line, null or the problem."""
    # what libraries print must not be taken for an answer
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for values in json.load(sys.stdin):
        problem = _fetch(Wanted(**values))
        print(json.dumps(problem), file=answers, flush=True)


def _fetch(item: Wanted) -> dict[str, str] | None:
    import datasets
    from huggingface_hub import HfApi, errors

    try:
        # without a network, downloads retry for half a minute; this fails at once
        HfApi().repo_info(item.name, revision=item.revision, repo_type=item.kind, timeout=TIMEOUT_S)
        if item.kind == "model":
            _fetch_model(item)
        else:
            _fetch_dataset(item)
    except errors.GatedRepoError:
        return {"what": "is gated", "remedy": "accept its terms on its page, then run hf auth login"}
    except errors.RepositoryNotFoundError:
        return {"what": "does not exist, or is private", "remedy": "check the name, or run hf auth login"}
    except UserError as error:
        return {"what": error.what, "remedy": error.remedy}
    # a lost network raises OSError, or an error of the client's HTTP library, whose name varies
    except (OSError, ValueError, datasets.exceptions.DatasetsError, errors.HfHubHTTPError) as error:
        return _problem(error)
    except Exception as error:
        if not type(error).__module__.split(".")[0].startswith("http"):
            raise
        return _problem(error)
    return None


def _problem(error: Exception) -> dict[str, str]:
    first_line = (str(error).splitlines() or [""])[0]
    remedy = "check the network and the name, then prefetch again"
    return {"what": f"cannot be downloaded ({type(error).__name__}: {first_line})", "remedy": remedy}


def _fetch_model(item: Wanted) -> None:
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            item.name,
            revision=item.revision,
            allow_patterns=MODEL_FILES,
            ignore_patterns=NOT_MODEL_FILES,
        )
    )
    if not list(folder.glob(WEIGHTS)):
        raise UserError("has no safetensors weights", remedy="convert it, or choose another model")


def _fetch_dataset(item: Wanted) -> None:
    """Load it as a job does, so that the job then finds it in the cache."""
    import datasets

    data: Any = datasets.load_dataset(item.name, item.config, split=item.split, revision=item.revision)
    require_commit(data, Source("hub", item.name, item.revision))
    # without a network the loader gives the version that was changed last, whichever it is asked for
    for folder in {Path(file["filename"]).parent for file in data.cache_files}:
        os.utime(folder)


def _pin(grid: Grid, items: Sequence[Wanted], failed: set[tuple[str, str]]) -> None:
    """Write the plan's commits where `study.grid.sources` looks first: the refs of this process's cache."""
    revisions: dict[tuple[str, str], set[str]] = {}
    for kind, name in _names(grid):
        repository, _, revision = name.partition("@")
        revisions.setdefault((kind, repository), set()).add(revision or "main")
    for (kind, repository), named in revisions.items():
        pinned = {revision for revision in named if is_commit(revision)}
        moving = named - pinned
        commits = {item.revision for item in items if (item.kind, item.name) == (kind, repository)} - pinned
        # with two names or two commits it is not known which belong together
        if (kind, repository) not in failed and len(moving) == 1 and len(commits) == 1:
            ref, commit = hub_cache(repository, kind) / "refs" / moving.pop(), commits.pop()
            if not ref.is_file() or ref.read_text(encoding="utf-8").strip() != commit:
                write_atomic(ref, commit)


def _names(grid: Grid) -> Iterator[tuple[str, str]]:
    """(kind, repository[@revision]) for every name in the grid that may be one on the hub."""
    config = grid.config
    yield from (("model", name) for name in config.grid["model"])
    datasets = config.grid.get("dataset") or [config.train.get("dataset", "")]
    yield from (("dataset", dataset_repository(name)) for name in datasets)
    for benchmark in grid.benchmarks:
        name, at, revision = benchmark.name.partition("@")
        if benchmark.path is None and (hub := definitions()[name].hub) is not None:
            yield "dataset", hub + at + revision
