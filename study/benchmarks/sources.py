"""A grid's benchmark as a pinned source, and the languages that the grid chooses from it."""

from __future__ import annotations

from pathlib import Path

from study.benchmarks.definition import definition_of, definitions, schemas
from study.errors import UserError, nearest
from study.grid.config import BenchmarkConfig, Grid
from study.grid.sources import DATA_SUFFIXES, content_revision, embedded_source, hub_source
from study.jobs.specs import Benchmark, Source, one_of
from study.languages import is_group, resolve


def benchmark_source(config: BenchmarkConfig, grid: Grid, where: str) -> Benchmark:
    """A benchmark of the grid: one that has a file in this folder, or local rows with the columns of one.

    where: its key path, for errors. Raises UserError for an unknown name or schema, a missing folder, or a
    value out of range.
    """
    name, schema = config.name, config.schema or ""
    if config.path is not None:
        source = _local_source(config.path, grid, where)
        if not schema:
            remedy = f"write {' or '.join(schemas())}"
            raise UserError("is missing", where=f"{where}.schema", remedy=remedy)
    else:
        name, at, commit = name.partition("@")
        definition = definitions().get(name)
        if definition is None or (definition.hub is None and at):
            remedy = f"{nearest(config.name, definitions())} (or give path and schema)"
            raise UserError(f"'{config.name}' is unknown", where=f"{where}.name", remedy=remedy)
        schema = definition.schema or name
        if definition.hub is None:
            source = embedded_source(name)
        else:
            source = hub_source(definition.hub + at + commit, "dataset", where, "", grid)
    try:
        one_of(schema, tuple(schemas()), "schema")
        return Benchmark(name, source, schema, config.split, config.num_items)
    except UserError as error:
        raise UserError(error.what, where=f"{where}.{error.where}", remedy=error.remedy) from None


def _local_source(path: str, grid: Grid, where: str) -> Source:
    folder = grid.find(path)
    if folder is None or not folder.is_dir():
        raise UserError(
            f"no such folder ('{path}')", where=f"{where}.path", remedy="give a folder of <language>.jsonl"
        )
    return Source("local", str(folder), content_revision(folder))


def benchmark_languages(benchmark: Benchmark) -> list[str]:
    """The languages of its local files, or of its definition, which may list none; sorted."""
    if benchmark.source.kind == "local":
        folder = Path(benchmark.source.name)
        return sorted({p.stem for p in folder.iterdir() if p.suffix in DATA_SUFFIXES and p.name[0] != "."})
    return definition_of(benchmark.name).codes


def chosen_languages(config: BenchmarkConfig, benchmark: Benchmark, where: str) -> list[str]:
    """The languages of a benchmark that the grid asks for.

    Where a definition does not list its languages, the grid's codes are taken as they are. Raises UserError
    for a word that names no language of the benchmark, and for `all` or a group where they are not listed.
    """
    available = benchmark_languages(benchmark)
    if not available and benchmark.source.kind != "local":
        groups = [word for word in config.languages if is_group(word)]
        if groups:
            raise UserError(
                f"the languages of {benchmark.name} are not known, so '{groups[0]}' cannot be used",
                where=f"{where}.languages",
                remedy="list their codes",
            )
        available = config.languages
    try:
        return resolve(config.languages, available)
    except UserError as error:
        raise UserError(error.what, where=f"{where}.languages", remedy=error.remedy) from None
