"""Names in a grid as pinned sources: a hub id gets its commit, a local file the hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from study import languages
from study.config import BenchmarkConfig, Grid
from study.errors import UserError, nearest
from study.files import HASH_LENGTH
from study.specs import Benchmark, Source

EMBEDDED_DATASETS = ("cldr-instruct", "cldr-pretrain")
# lite: at most 60 questions a subject, the ones that cldr-pretrain teaches
EMBEDDED_BENCHMARKS = ("cldr", "cldr_lite")
HUB_DATASETS = {
    "alpaca": "tatsu-lab/alpaca",
    "tulu3": "allenai/tulu-3-sft-mixture",
    "openhermes": "teknium/OpenHermes-2.5",
}
HUB_BENCHMARKS = {
    "global_mmlu": ("CohereLabs/Global-MMLU", "global_mmlu"),
    "global_mmlu_lite": ("CohereLabs/Global-MMLU-Lite", "global_mmlu"),
    "mmlu_prox": ("li-lab/MMLU-ProX", "mmlu_prox"),
    "mmlu_prox_lite": ("li-lab/MMLU-ProX-Lite", "mmlu_prox"),
}
DATA_SUFFIXES = (".jsonl", ".parquet")
# weights are told apart by their size and both ends: reading 15 GB for every plan is no option
SAMPLE_ABOVE_BYTES = 64 * 2**20
SAMPLE_BYTES = 2**20


def model_source(name: str, grid: Grid, prepared: Mapping[str, str], where: str) -> Source:
    """A model of the grid: a name under `prepare`, a local folder, or a hub id."""
    if name in prepared:
        return Source("job", prepared[name], prepared[name])
    found = grid.find(name)
    if found is not None:
        if found.suffix == ".gguf":
            raise UserError(
                "GGUF files are not read yet", where=where, remedy="give a Hugging Face folder or a hub id"
            )
        if not (found / "config.json").is_file():
            raise UserError(
                f"'{name}' has no config.json", where=where, remedy="give a Hugging Face model folder"
            )
        return Source("local", str(found), content_revision(found))
    return _hub(
        name, "model", where, remedy=nearest(name, prepared) if prepared else "give a folder or a hub id"
    )


def dataset_source(name: str, grid: Grid, where: str) -> Source:
    """A dataset of the grid: an embedded preset, a local JSONL or Parquet file, or a hub id."""
    if name in EMBEDDED_DATASETS:
        return embedded_source(name)
    found = grid.find(name)
    if found is not None:
        if found.suffix not in DATA_SUFFIXES:
            raise UserError(
                f"'{name}' is not a .jsonl or .parquet file", where=where, remedy="give such a file"
            )
        return Source("local", str(found), content_revision(found))
    known = (*EMBEDDED_DATASETS, *HUB_DATASETS)
    return _hub(HUB_DATASETS.get(name, name), "dataset", where, remedy=nearest(name, known))


def embedded_source(name: str) -> Source:
    """Data that ships with this project, generated from Unicode CLDR."""
    from study import cldr

    return Source("embedded", name, cldr.revision())


def content_revision(path: Path) -> str:
    """First 16 hex of a SHA-256 over the names and contents of a file or of every file in a folder.

    Of a file above 64 MiB only its size, first and last MiB are read.
    """
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
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
                total.update(stream.read(SAMPLE_BYTES))
                stream.seek(-SAMPLE_BYTES, 2)
                total.update(stream.read(SAMPLE_BYTES))
    return total.hexdigest()[:HASH_LENGTH]


def _hub(name: str, kind: str, where: str, remedy: str) -> Source:
    """A hub repository at a commit: `org/name@<commit>`, else the cached or current commit of main."""
    repository, _, revision = name.partition("@")
    looks_local = repository.startswith(("/", ".", "~")) or repository.endswith((*DATA_SUFFIXES, ".gguf"))
    if looks_local or repository.count("/") != 1:
        what = "no such file or folder" if looks_local else f"'{name}' is unknown"
        raise UserError(f"{what} ('{name}')" if looks_local else what, where=where, remedy=remedy)
    if len(revision) >= 12 and all(c in "0123456789abcdef" for c in revision):
        return Source("hub", repository, revision)
    return Source("hub", repository, _hub_commit(repository, revision or "main", kind, where))


def _hub_commit(repository: str, revision: str, kind: str, where: str) -> str:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import repo_folder_name

    cached = (
        Path(constants.HF_HUB_CACHE)
        / repo_folder_name(repo_id=repository, repo_type=kind)
        / "refs"
        / revision
    )
    if cached.is_file():  # an air-gapped plan gets the commit that was fetched for it
        return cached.read_text().strip()
    try:
        commit = HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=10).sha
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot find the commit of '{repository}' ({type(error).__name__})",
            where=where,
            remedy=f"check the name, or pin it as '{repository}@<commit>' and download it beforehand",
        ) from None
    assert commit is not None
    return commit


def benchmark_source(config: BenchmarkConfig, grid: Grid, where: str) -> Benchmark:
    """A benchmark of the grid: `cldr` or `cldr_lite` (embedded), a hub benchmark by name, or local files."""
    if config.path is not None:
        found = grid.find(config.path)
        if found is None or not found.is_dir():
            raise UserError(
                f"no such folder ('{config.path}')",
                where=f"{where}.path",
                remedy="give a folder of <language>.jsonl",
            )
        if config.schema is None:
            raise UserError("is missing", where=f"{where}.schema", remedy="write global_mmlu or mmlu_prox")
        source, schema = Source("local", str(found), content_revision(found)), config.schema
    elif config.name in EMBEDDED_BENCHMARKS:
        source, schema = embedded_source(config.name), "global_mmlu"
    elif config.name in HUB_BENCHMARKS:
        repository, schema = HUB_BENCHMARKS[config.name]
        source = _hub(repository, "dataset", where, remedy="")
    else:
        raise UserError(
            f"'{config.name}' is unknown",
            where=f"{where}.name",
            remedy=nearest(config.name, (*EMBEDDED_BENCHMARKS, *HUB_BENCHMARKS))
            + " (or give path and schema)",
        )
    return Benchmark(config.name, source, schema, config.split, config.num_items)


def benchmark_languages(benchmark: Benchmark) -> list[str]:
    """The languages a benchmark has, sorted."""
    if benchmark.source.kind == "local":
        folder = Path(benchmark.source.name)
        return sorted({p.stem for p in folder.iterdir() if p.suffix in DATA_SUFFIXES})
    if benchmark.source.kind == "embedded":
        from study.cldr.benchmark import LANGUAGES

        return sorted(LANGUAGES)
    attribute = "in_global_mmlu" if benchmark.schema == "global_mmlu" else "in_mmlu_prox"
    return sorted(code for code, language in languages.LANGUAGES.items() if getattr(language, attribute))
