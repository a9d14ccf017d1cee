"""The raw rows of one split and language: embedded, from local files, or from the hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from study.benchmarks.definition import definition_of
from study.errors import JobError, RecordError, nearest
from study.grid.sources import require_commit
from study.jobs.specs import Benchmark
from study.rows import Row, read_rows

SUFFIXES = (".parquet", ".jsonl")
LOCAL_SHOT_SPLITS = ("dev", "validation")
"""Where local files may have their shots, whatever their schema."""


def split_rows(benchmark: Benchmark, language: str) -> tuple[str, list[Row]]:
    """A name for the place where the rows come from, and the rows in their order.

    Raises JobError when the language, the file or the hub's data is missing, or the split is empty;
    RecordError for a file that cannot be read.
    """
    source, split = benchmark.source, benchmark.split
    if source.kind == "local":
        file = _local_file(Path(source.name), language)
        all_rows = _read(file)
        rows = _in_split(str(file), all_rows, split)
        if not rows:
            splits = ", ".join(sorted({repr(row["split"]) for row in all_rows}))
            raise JobError(f"{file}: no rows in split '{split}'; the file has {splits}")
        return str(file), rows
    place, rows = _elsewhere(benchmark, language, split)
    if not rows:
        raise JobError(f"{place}: no rows in split '{split}'")
    return place, rows


def shot_rows(benchmark: Benchmark, language: str) -> tuple[str, list[Row]]:
    """As `split_rows`, for the split that shots come from, which is never the one evaluated.

    Local files have it in their column `split`, as `dev` or `validation`, or in a folder of one of these
    names beside them.
    """
    if benchmark.source.kind == "local":
        return _local_shots(Path(benchmark.source.name), language, benchmark.split)
    split = definition_of(benchmark.name).shot_split
    if split is None:
        raise JobError(f"benchmark '{benchmark.name}' has no split for shots; write evaluate.num_shots: 0")
    if split == benchmark.split:
        raise JobError(f"benchmark '{benchmark.name}': shots come from '{split}', which is evaluated")
    place, rows = _elsewhere(benchmark, language, split)
    if not rows:
        raise JobError(f"{place}: no rows in split '{split}', which shots come from")
    return place, rows


def _local_shots(folder: Path, language: str, evaluated: str) -> tuple[str, list[Row]]:
    names = [name for name in LOCAL_SHOT_SPLITS if name != evaluated]
    file = _local_file(folder, language)
    mixed = _read(file)
    places: list[tuple[str, list[Row]]] = []
    for name in names:
        # unlike for the split that is evaluated: rows that name no split are not shots
        if rows := [row for row in mixed if row.get("split") == name]:
            places.append((f"{file}, split '{name}'", rows))
        if (folder / name).is_dir():
            beside = _local_file(folder / name, language)
            places.append((str(beside), _in_split(str(beside), _read(beside), name)))
    if len(places) > 1:
        raise JobError(f"shots in several places, keep one: {', '.join(place for place, _ in places)}")
    if not places or not places[0][1]:
        folders = " or ".join(f"{folder / name}" for name in names)
        raise JobError(
            f"no shots: looked for rows with split {' or '.join(names)} in {file}, and for rows of "
            f"{language}.jsonl or {language}.parquet in {folders}"
        )
    return places[0]


def _elsewhere(benchmark: Benchmark, language: str, split: str) -> tuple[str, list[Row]]:
    source = benchmark.source
    if source.kind == "hub":
        return f"{source.name} ({language}, {split})", _hub_rows(benchmark, language, split)
    if source.kind == "embedded":
        place = f"{source.name} ({language})"
        return place, _in_split(place, _embedded_rows(source.name, language), split)
    raise JobError(f"benchmark '{benchmark.name}': a source of kind '{source.kind}' holds no items")


def _in_split(place: str, rows: Iterable[Row], split: str) -> list[Row]:
    """The rows of a split; all, without a column `split`. Raises RecordError for a null in it."""
    chosen = []
    for number, row in enumerate(rows, start=1):
        own = row.get("split", split)
        if own is None:
            raise RecordError(f"{place}, row {number}: split is null; name it, or leave the column out")
        if own == split:
            chosen.append(row)
    return chosen


def _embedded_rows(name: str, language: str) -> list[Row]:
    from study.cldr import benchmark as cldr

    if language not in cldr.LANGUAGES:
        remedy = nearest(language, cldr.LANGUAGES)
        raise JobError(f"the embedded benchmark '{name}' has no language '{language}'; {remedy}")
    return list(cldr.rows(language, per_subject=definition_of(name).per_subject))


def _local_file(folder: Path, language: str) -> Path:
    candidates = [folder / f"{language}{suffix}" for suffix in SUFFIXES]
    files = [path for path in candidates if path.is_file()]
    if len(files) == 1:
        return files[0]
    names = f"{folder}: {candidates[0].name} and {candidates[1].name}"
    if files:
        raise JobError(f"{names}: both exist; keep one")
    languages = [path.stem for path in folder.glob("*") if path.suffix in SUFFIXES]
    raise JobError(f"{names}: neither exists; {nearest(language, languages)}")


def _read(file: Path) -> list[Row]:
    rows = read_rows(file)
    if not rows:
        raise RecordError(f"{file}: holds no rows; put its items there, or leave the language out")
    return rows


def _hub_rows(benchmark: Benchmark, language: str, split: str) -> list[Row]:
    import datasets

    source, definition = benchmark.source, definition_of(benchmark.name)
    config = definition.configs.get(language, language)
    try:
        data = datasets.load_dataset(source.name, config, split=split, revision=source.revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        remedy = "where there is no network, download it before the job"
        if definition.codes and language not in definition.codes:
            remedy = nearest(language, definition.codes)
        raise JobError(
            f"cannot load {source.name} ({language}, {split}) at {source.revision[:12]}: "
            f"{type(error).__name__}: {first_line}; {remedy}"
        ) from error
    require_commit(data, source)
    return list(data)
