"""Names in a grid as pinned sources. The hub is faked at its API and as a hand-made cache folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from study.errors import UserError
from study.grid import sources
from study.grid.config import Grid
from study.grid.sources import (
    content_revision,
    dataset_source,
    embedded_source,
    model_source,
)
from study.jobs.specs import Source
from tests.grids import grid_of, write_model
from tests.study.fake_hub import COMMIT, FakeHub
from tests.study.headers import gguf_bytes

WHERE = "grid.yaml: grid.model"


def mistake(name: str, grid: Grid) -> str:
    with pytest.raises(UserError) as caught:
        model_source(name, grid, {"cldr-tiny": "f" * 16}, WHERE)
    return str(caught.value)


def test_a_local_model(grid: Grid, tmp_path: Path, hub: FakeHub) -> None:
    folder = write_model(tmp_path / "models" / "mine")
    source = model_source("models/mine", grid, {}, WHERE)
    assert source == Source("local", str(folder), content_revision(folder))
    assert model_source(str(folder), grid, {}, WHERE) == source
    assert not hub.asked


def test_a_prepared_model_wins_over_a_folder_of_that_name(grid: Grid, tmp_path: Path) -> None:
    write_model(tmp_path / "cldr-tiny")
    assert model_source("cldr-tiny", grid, {"cldr-tiny": "f" * 16}, WHERE) == Source(
        "job", "f" * 16, "f" * 16
    )


def test_a_model_pinned_by_name_asks_nobody(grid: Grid, hub: FakeHub) -> None:
    assert model_source(f"org/name@{COMMIT}", grid, {}, WHERE) == Source("hub", "org/name", COMMIT)
    assert not hub.asked


def test_a_hub_model_gets_its_commit(grid: Grid, hub: FakeHub) -> None:
    assert model_source("org/name", grid, {}, WHERE) == Source("hub", "org/name", COMMIT)
    assert model_source("org/name@v1.0", grid, {}, WHERE) == Source("hub", "org/name", COMMIT)
    assert hub.asked == [("org/name", "main", "model"), ("org/name", "v1.0", "model")]


def test_a_cached_hub_model_asks_nobody(grid: Grid, hub: FakeHub, tmp_path: Path) -> None:
    cached = "fedcba9876543210fedcba9876543210fedcba98"
    refs = tmp_path / "cache" / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(cached)
    assert model_source("org/name", grid, {}, WHERE) == Source("hub", "org/name", cached)
    assert not hub.asked
    # a dataset of the same name is another repository
    assert dataset_source("org/name", grid, WHERE) == Source("hub", "org/name", COMMIT)
    assert hub.asked == [("org/name", "main", "dataset")]


class UnheardOfError(Exception):
    """The hub client's HTTP library, and so the errors of a lost network, differs between its versions."""


@pytest.mark.parametrize("problem", [ConnectionError("x\ny"), UnheardOfError("x"), ValueError("bad name")])
def test_an_unreachable_hub_is_one_sentence(grid: Grid, hub: FakeHub, problem: Exception) -> None:
    hub.problem = problem
    assert mistake("org/name", grid) == (
        f"{WHERE}: cannot find the commit of 'org/name' ({type(problem).__name__}); "
        "check the name, or pin it as 'org/name@<commit>' and download it beforehand"
    )


def test_the_real_client_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours is faked here: a closed port stands for the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    grid = grid_of(tmp_path, "study: s\ngrid: {model: [m]}\n")
    assert mistake("org/name", grid).startswith(f"{WHERE}: cannot find the commit of 'org/name' (")
    assert mistake("a b/c", grid).startswith(f"{WHERE}: cannot find the commit of 'a b/c' (")


def test_wrong_model_names(grid: Grid, tmp_path: Path) -> None:
    assert mistake("cldr-tiyn", grid) == f"{WHERE}: 'cldr-tiyn' is unknown; did you mean 'cldr-tiny'?"
    assert mistake("./nowhere", grid) == f"{WHERE}: no such file or folder ('./nowhere'); valid: cldr-tiny"
    assert mistake("a/b/c", grid) == f"{WHERE}: 'a/b/c' is unknown; valid: cldr-tiny"
    (tmp_path / "empty").mkdir()
    assert mistake("empty", grid) == (
        f"{WHERE}: 'empty' has no config.json; give a Hugging Face model folder or a GGUF file"
    )


def test_a_gguf_file_is_pinned_by_its_content(grid: Grid, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf_bytes({"llama.rope.scaling.type": "none"}, {"output.weight": (2, 3)}) + b"weights")
    source = model_source("m.gguf", grid, {}, WHERE)
    assert source == Source("local", str(file), content_revision(file))
    file.write_bytes(file.read_bytes()[:-1] + b"S")
    assert model_source("m.gguf", grid, {}, WHERE).revision != source.revision


def test_gguf_files_that_would_be_read_as_another_model(grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert mistake("m.gguf", grid) == (
        f"{WHERE}: 'm.gguf' is not a GGUF file of version 2 or 3; download it again"
    )
    for name, values, shapes in (
        ("m-00001-of-00003.gguf", {}, {}),
        ("first.gguf", {"split.count": 3}, {}),
        ("linear.gguf", {"gemma3.rope.scaling.type": "linear"}, {}),
        ("llama3.gguf", {}, {"rope_freqs.weight": (64,)}),
    ):
        (tmp_path / name).write_bytes(gguf_bytes(values, shapes))
    for name in ("m-00001-of-00003.gguf", "first.gguf"):
        assert mistake(name, grid) == (
            f"{WHERE}: '{name}' is one part of a split model; "
            "join the parts with llama.cpp's gguf-split --merge"
        )
    for name in ("linear.gguf", "llama3.gguf"):
        assert mistake(name, grid) == (
            f"{WHERE}: '{name}' scales its rotary embedding, which is not read from GGUF files; "
            "give the model's safetensors"
        )


def test_datasets(grid: Grid, hub: FakeHub, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    assert dataset_source("rows.jsonl", grid, WHERE) == Source("local", str(rows), content_revision(rows))
    assert dataset_source("cldr-instruct", grid, WHERE) == embedded_source("cldr-instruct")
    assert dataset_source("alpaca", grid, WHERE).name == "tatsu-lab/alpaca"
    assert dataset_source("tulu3", grid, WHERE).name == "allenai/tulu-3-sft-mixture"
    assert dataset_source("openhermes", grid, WHERE).name == "teknium/OpenHermes-2.5"
    assert {kind for _, _, kind in hub.asked} == {"dataset"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("alpacca", "'alpacca' is unknown; did you mean 'alpaca'?"),
        ("cldr-instuct", "'cldr-instuct' is unknown; did you mean 'cldr-instruct'?"),
        ("rows.txt", "'rows.txt' is not a .jsonl or .parquet file; give such a file"),
        (
            "none.jsonl",
            "no such file or folder ('none.jsonl'); "
            "valid: alpaca, cldr-instruct, cldr-pretrain, openhermes, tulu3, tulu_stanford_alpaca",
        ),
    ],
)
def test_wrong_datasets(grid: Grid, tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "rows.txt").touch()
    with pytest.raises(UserError) as caught:
        dataset_source(name, grid, "grid.yaml: grid.dataset")
    assert str(caught.value) == f"grid.yaml: grid.dataset: {sentence}"


def test_every_revision_has_at_least_12_hex(grid: Grid, tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    for source in (
        model_source("m", grid, {}, WHERE),
        embedded_source("cldr"),
        model_source("o/n", grid, {}, ""),
    ):
        assert len(source.revision) >= 12
        int(source.revision, 16)


def test_content_decides_and_not_the_place(tmp_path: Path) -> None:
    first = write_model(tmp_path / "a" / "m")
    before = content_revision(first)
    moved = first.rename(tmp_path / "b")
    assert content_revision(moved) == before
    (moved / ".cache").mkdir()
    (moved / ".cache" / "note").write_text("downloaded today")
    (moved / ".DS_Store").touch()
    assert content_revision(moved) == before
    (moved / "model.safetensors").write_text("other w.")
    changed = content_revision(moved)
    (moved / "model.safetensors").rename(moved / "renamed.safetensors")
    assert len({before, changed, content_revision(moved)}) == 3


def test_where_one_file_ends_and_the_next_begins_matters(tmp_path: Path) -> None:
    for name, a, b in (("x", "12", "3"), ("y", "1", "23")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(a)
        (tmp_path / name / "b").write_text(b)
    assert content_revision(tmp_path / "x") != content_revision(tmp_path / "y")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an empty folder; put the files there"):
        content_revision(tmp_path)


def test_a_big_file_is_sampled_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that differ only in middle layers are different models."""
    monkeypatch.setattr(sources, "SAMPLE_ABOVE_BYTES", 1000)
    monkeypatch.setattr(sources, "SAMPLE_BLOCK_BYTES", 10)
    monkeypatch.setattr(sources, "SAMPLE_BLOCKS", 5)
    file = tmp_path / "model.safetensors"

    def revision(size: int = 2010, at: int | None = None) -> str:
        content = bytearray(size)
        if at is not None:
            content[at] = 1
        file.write_bytes(content)
        return content_revision(file)

    same = revision()
    for place in (0, 9, 500, 1000, 1009, 1500, 2000, 2009):  # in the blocks at 0, 500, ..., 2000
        assert revision(at=place) != same
    assert revision(at=300) == same  # between them
    assert revision(size=2011) != same
