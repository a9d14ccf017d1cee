"""Names in a grid as pinned sources: a hub id gets its commit, a local file the hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study.errors import JobError, UserError, nearest
from study.files import HASH_LENGTH
from study.grid.config import Grid
from study.jobs.specs import Source
from study.models.weights import GGUF, SPLIT_NAME, gguf_header
from study.presets import PRESETS

DATA_SUFFIXES = (".jsonl", ".parquet")
OPEN = "unresolved"
"""The revision of a hub repository in a dry run when the hub does not answer."""
# reading 15 GB of weights for every plan is too slow, and their ends are alike in models that differ in a few
# layers only: a large file is identified by its size and by blocks spread over it
SAMPLE_ABOVE_BYTES = 64 * 2**20
SAMPLE_BLOCK_BYTES = 2**16
SAMPLE_BLOCKS = 256


def model_source(name: str, grid: Grid, prepared: Mapping[str, str], where: str) -> Source:
    """A model of the grid: a name under `prepare`, a local folder, a GGUF file, or a hub id."""
    if name in prepared:
        return Source("job", prepared[name], prepared[name])
    path = grid.find(name)
    if path is not None:
        if path.suffix == GGUF:
            _check_gguf(path, name, where)
        elif not (path / "config.json").is_file():
            raise UserError(
                f"'{name}' has no config.json",
                where=where,
                remedy="give a Hugging Face model folder or a GGUF file",
            )
        return Source("local", str(path), content_revision(path))
    remedy = nearest(name, prepared) if prepared else "give a folder or a hub id"
    return hub_source(name, "model", where, remedy, grid)


def _check_gguf(file: Path, name: str, where: str) -> None:
    """Refuse a file from which transformers would read a different model."""
    try:
        header = gguf_header(file)
    except ValueError as error:
        raise UserError(f"'{name}' {error}", where=where, remedy="download it again") from None
    if SPLIT_NAME.search(file.name) or header.values.get("split.count", 1) > 1:
        raise UserError(
            f"'{name}' is one part of a split model",
            where=where,
            remedy="join the parts with llama.cpp's gguf-split --merge",
        )
    scaling = (value for key, value in header.values.items() if key.endswith(".rope.scaling.type"))
    if any(value != "none" for value in scaling) or any("rope_f" in tensor for tensor in header.shapes):
        raise UserError(
            f"'{name}' scales its rotary embedding, which is not read from GGUF files",
            where=where,
            remedy="give the model's safetensors",
        )


def dataset_source(name: str, grid: Grid, where: str) -> Source:
    """A dataset of the grid: a preset, a local JSONL or Parquet file, or a hub id."""
    if name in PRESETS and PRESETS[name].hub is None:
        return embedded_source(name)
    path = grid.find(name)
    if path is not None:
        if path.suffix not in DATA_SUFFIXES:
            raise UserError(
                f"'{name}' is not a .jsonl or .parquet file", where=where, remedy="give such a file"
            )
        return Source("local", str(path), content_revision(path))
    return hub_source(dataset_repository(name), "dataset", where, nearest(name, PRESETS), grid)


def dataset_repository(name: str) -> str:
    """A dataset's name in a grid, with or without @<revision>, as `<hub id>[@<revision>]`."""
    preset, at, revision = name.partition("@")
    hub = PRESETS[preset].hub if preset in PRESETS else None
    return (hub or preset) + at + revision


def embedded_source(name: str) -> Source:
    """Data that ships with this project, generated from Unicode CLDR."""
    from study.cldr import version

    return Source("embedded", name, version.revision())


def content_revision(path: Path) -> str:
    """First 16 hex of a SHA-256 over the content of a file, or the names and contents of a folder's files.

    Hidden files and folders do not count, since downloads and editors keep notes in them. For a file above
    64 MiB only its size and 256 blocks of 64 KiB, evenly spread from end to end, count.
    """
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if _counts(p, path))
    if not files:
        raise UserError("is an empty folder", where=str(path), remedy="put the files there")
    for file in files:
        name = "" if file == path else file.relative_to(path).as_posix()
        size = file.stat().st_size
        total.update(f"{name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= SAMPLE_ABOVE_BYTES:
                total.update(stream.read())
            else:
                for i in range(SAMPLE_BLOCKS):
                    stream.seek(i * (size - SAMPLE_BLOCK_BYTES) // (SAMPLE_BLOCKS - 1))
                    total.update(stream.read(SAMPLE_BLOCK_BYTES))
    return total.hexdigest()[:HASH_LENGTH]


def _counts(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def hub_source(name: str, kind: str, where: str, remedy: str, grid: Grid) -> Source:
    """A hub repository at a commit: `org/name@<commit>`, else the cached or current commit of main."""
    repository, _, revision = name.partition("@")
    looks_local = repository.startswith(("/", ".", "~")) or repository.endswith((*DATA_SUFFIXES, GGUF))
    if looks_local or repository.count("/") != 1:
        what = "no such file or folder" if looks_local else f"'{name}' is unknown"
        raise UserError(f"{what} ('{name}')" if looks_local else what, where=where, remedy=remedy)
    if is_commit(revision):
        return Source("hub", repository, revision)
    commit = _hub_commit(repository, revision or "main", kind, where, may_stay_open=grid.only_looked_at)
    return Source("hub", repository, commit)


_silent: list[bool] = []
"""Not empty once the hub did not answer, so that a dry run with ten names does not wait ten times."""


def hub_cache(repository: str, kind: str) -> Path:
    """Where the Hugging Face cache keeps a repository's files, in `refs` and `snapshots`."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)


def is_commit(revision: str) -> bool:
    """Whether a revision pins a repository, unlike a branch or a tag."""
    return len(revision) >= 12 and all(c in "0123456789abcdef" for c in revision)


def require_commit(data: Any, source: Source) -> None:
    """Refuse rows of another commit than the job's.

    Trap: without a network `datasets.load_dataset` gives the version that was cached last, whichever revision
    it is asked for. data: what it returned. Raises JobError.
    """
    for file in data.cache_files:  # .../<config>/<version>/<commit>/<name>.arrow
        commit = Path(file["filename"]).parent.name
        if not commit.startswith(source.revision):
            raise JobError(
                f"{source.name}: the cache gave commit {commit[:12]}, and this job needs "
                f"{source.revision[:12]}; run calsweep prefetch again"
            )


def _hub_commit(repository: str, revision: str, kind: str, where: str, *, may_stay_open: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        ref = hub_cache(repository, kind) / "refs" / revision
        if ref.is_file():  # what prefetch noted, for a plan without a network
            return ref.read_text(encoding="utf-8").strip()
        if may_stay_open and _silent:
            return OPEN
        commit = HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=10).sha
    except Exception as error:  # the HTTP library, and so its errors, depend on the hub client's version
        if may_stay_open and not isinstance(error, HfHubHTTPError | HFValidationError):
            _silent.append(True)
            return OPEN
        raise UserError(
            f"cannot find the commit of '{repository}' ({type(error).__name__})",
            where=where,
            remedy=f"check the name, or pin it as '{repository}@<commit>' and download it beforehand",
        ) from None
    assert commit is not None
    return commit
