"""The raw rows of one split and language: embedded, from local files, or from the hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from study.errors import JobError
from study.rows import Row, read_rows
from study.sources import require_commit
from study.specs import Benchmark


def split_rows(benchmark: Benchmark, language: str) -> tuple[str, list[Row]]:
    """What to call the place the rows came from, and the rows in their order.

    Raises JobError when the language, the file or the hub's data cannot be had, or the split is empty;
    RecordError for a file that cannot be read.
    """
    source = benchmark.source
    if source.kind == "hub":
        place = f"{source.name} ({language}, {benchmark.split})"
        rows = _hub_rows(benchmark, language)
    elif source.kind == "local":
        file = _local_file(Path(source.name), language)
        place, rows = str(file), _in_split(read_rows(file), benchmark.split)
    elif source.kind == "embedded":
        place = f"{source.name} ({language})"
        rows = _in_split(_embedded_rows(source.name, language), benchmark.split)
    else:
        raise JobError(f"benchmark '{benchmark.name}': a source of kind '{source.kind}' holds no items")
    if not rows:
        raise JobError(f"{place}: no rows in split '{benchmark.split}'")
    return place, rows


def _in_split(rows: Iterable[Row], split: str) -> list[Row]:
    """Rows of the split; a file without a split column is one split."""
    return [row for row in rows if row.get("split", split) == split]


def _embedded_rows(name: str, language: str) -> list[Row]:
    from study.cldr import benchmark as cldr
    from study.cldr.instructions import DEMO_PER_SUBJECT

    caps = {"cldr": None, "cldr_lite": DEMO_PER_SUBJECT}
    if name not in caps:
        raise JobError(f"there is no embedded benchmark '{name}'")
    if language not in cldr.LANGUAGES:
        raise JobError(f"the embedded benchmark '{name}' has no language '{language}'")
    return list(cldr.rows(language, per_subject=caps[name]))


def _local_file(folder: Path, language: str) -> Path:
    candidates = [folder / f"{language}{suffix}" for suffix in (".parquet", ".jsonl")]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        problem = "both exist; keep one" if found else "neither exists"
        raise JobError(f"{folder}: {candidates[0].name} and {candidates[1].name}: {problem}")
    return found[0]


def _hub_rows(benchmark: Benchmark, language: str) -> list[Row]:
    import datasets

    source = benchmark.source
    try:
        data = datasets.load_dataset(source.name, language, split=benchmark.split, revision=source.revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise JobError(
            f"cannot load {source.name} ({language}, {benchmark.split}) at {source.revision[:12]}: "
            f"{type(error).__name__}: {first_line}; where there is no network, download it before the job"
        ) from error
    require_commit(data, source)
    return list(data)
