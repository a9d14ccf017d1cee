"""A study's shards: within a language all asked the same, and numbers do not depend on processes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from analysis.reading import cells, loading
from analysis.reading.cells import Loaded, Work
from analysis.reading.headline import WITH_DIFFERENCES
from analysis.reading.loading import load_studies, load_study, visit_study
from analysis.reading.shards import Missing
from analysis.tables import differences
from analysis.tables.files import write_tables
from study.errors import UserError
from tests.analysis.studies import StudyFolder, random_letters, sweep

ROWS = random_letters("x", 40, 2.0, 0.6, 0.9)


def add(folder: StudyFolder, smoothing: float, rows: object, language: str = "en") -> str:
    cell = {"model": "m", "dataset": "d", "label_smoothing": smoothing, "seed": 0}
    return folder.add(cell, language, rows)  # type: ignore[arg-type]


def test_a_shard_that_asked_other_items_is_refused(folder: StudyFolder) -> None:
    first = add(folder, 0.0, ROWS)
    fewer = add(folder, 0.1, ROWS[:-2])
    other = add(folder, 0.2, [*ROWS[:-1], replace(ROWS[-1], example_id="new")])
    relabelled = add(folder, 0.3, [replace(ROWS[0], label=(ROWS[0].label + 1) % 4), *ROWS[1:]])
    add(folder, 0.1, ROWS[:-2], language="de")
    good, *refused, german = load_study(folder.root).shards
    assert good.missing is None
    assert german.missing is None  # of another language: its items are its own
    assert [str(shard.missing) for shard in refused] == [
        f"unreadable: jobs/{fewer}: asked other items than job {first}: 2 examples that it lacks, such as "
        "'item-38'",
        f"unreadable: jobs/{other}: asked other items than job {first}: 1 examples that only it has, such as "
        "'new'; 1 examples that it lacks, such as 'item-39'",
        f"unreadable: jobs/{relabelled}: asked other items than job {first}: 1 examples with another right "
        "option, such as 'item-0'",
    ]
    for shard in refused:
        assert shard.is_refused
        assert (shard.metrics, shard.bins, shard.estimates, shard.record_hash) == (None,) * 4


def test_two_jobs_for_one_cell_and_language_are_refused(both: tuple[StudyFolder, StudyFolder]) -> None:
    """A benchmark that a grid lists twice: a mean over both would be of neither test."""
    a, b = both
    for folder, cell in ((a, {"model": "m"}), (b, {"model": "m", "seed": 0}), (b, {"seed": 0, "model": "m"})):
        folder.add(cell, "de", ROWS)
        folder.add({"model": "other"}, "en" if folder is a else f"x{len(b.jobs)}", ROWS)
    load_study(a.root)
    sentence = (
        f"{b.root / 'plan.json'}: has two jobs for one cell and language, 0000000000000000 and "
        "0000000000000002 (cldr, test, letter, de); name each benchmark and split once in the grid"
    )
    for folders in ([b.root], [a.root, b.root]):
        with pytest.raises(UserError) as refused:
            load_studies(folders)
        assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"cell"', '"cel"'),
        ('"protocol"', '"protocl"'),
        ('"study"', '"stdy"'),
        ('"cell": {', '"cell": [], "x": {'),
    ],
)
def test_a_plan_that_lacks_something_is_one_sentence(folder: StudyFolder, old: str, new: str) -> None:
    add(folder, 0.0, ROWS)
    plan = folder.root / "plan.json"
    plan.write_text(plan.read_text().replace(old, new))
    with pytest.raises(UserError, match=r"plan\.json: is not a plan \(.*\); sweep the grid again$"):
        load_study(folder.root)


def test_an_axis_of_lists_is_told_as_text(folder: StudyFolder) -> None:
    for sources in ([], ["aya", "flan"]):
        cell = {"model": "m", "dataset": "d", "exclude_sources": sources, "seed": 0}
        folder.add(cell, "en", ROWS)
    written = write_tables(folder.root, formats=["csv"])["calibration.csv"].read_text().splitlines()
    axis = written[0].split(",").index("exclude_sources")
    assert {line.split(",")[axis] for line in written[1:]} == {"none", '"aya'}


def test_the_first_that_can_be_used_says_what_was_asked(folder: StudyFolder) -> None:
    torn = add(folder, 0.0, ROWS[:10])
    add(folder, 0.1, None)
    add(folder, 0.2, ROWS)
    add(folder, 0.3, ROWS)
    next((folder.root / "jobs" / torn / "predictions").iterdir()).write_bytes(b"PAR1")
    missing = [shard.missing for shard in load_study(folder.root).shards]
    assert missing[1:] == [Missing("not done"), None, None]
    assert str(missing[0]).startswith(f"unreadable: jobs/{torn}/predictions/part-")


def test_the_order_of_items_says_nothing(folder: StudyFolder) -> None:
    add(folder, 0.0, ROWS)
    add(folder, 0.1, ROWS[::-1])
    one, other = load_study(folder.root).shards
    assert one.items == other.items
    assert one.estimates is not None
    assert other.estimates is not None
    for name, estimate in one.estimates.items():
        assert other.estimates[name].draws == pytest.approx(estimate.draws, abs=1e-9), name


def test_splits_and_benchmarks_have_draws_of_their_own(folder: StudyFolder) -> None:
    cell = {"model": "m"}
    folder.add(cell, "en", ROWS)
    folder.add(cell, "en", ROWS[:20], split="validation")
    folder.add(cell, "en", ROWS[:30], benchmark="other")
    folder.add(cell, "en", ROWS, protocol="letter", split="test", benchmark="third")
    assert [shard.metrics.n for shard in load_study(folder.root).shards if shard.metrics] == [40, 20, 30, 40]


def test_studies_loaded_together_share_their_draw(folder: StudyFolder) -> None:
    other = StudyFolder(folder.root.parent / "other")
    other.root.mkdir()
    for study in (folder, other):
        add(study, 0.0, ROWS)
    add(other, 0.0, random_letters("y", 90, 2.0, 0.6, 0.9), language="de")

    def draws(*folders: StudyFolder) -> list[np.ndarray]:
        studies = load_studies([each.root for each in folders])
        return [(study.shards[0].estimates or {})["accuracy"].draws for study in studies]

    one, two = draws(folder, other)
    assert np.array_equal(one, two)
    assert not np.array_equal(draws(folder)[0], two)  # 40 ids are drawn otherwise than 90


@pytest.mark.slow
def test_numbers_do_not_depend_on_processes(folder: StudyFolder) -> None:
    """The bytes of every table, with one process and with two."""
    sweep(folder, seeds=2, count=25, skip=[(0.1, 1, "sw")])
    files = []
    for num_processes in (1, 2):
        study = load_study(folder.root, num_processes=num_processes)
        assert len(differences.table_rows(study)) == 3 * len(WITH_DIFFERENCES) * (5 + 3 + 1 + 1)
        files.append(
            {name: path.read_bytes() for name, path in write_tables(folder.root, study=study).items()}
        )
    assert files[0] == files[1]
    assert len(files[0]) == 8


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_numbers_do_not_depend_on_the_shards_read_at_once(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    sweep(folder, seeds=1, count=25, skip=[(0.1, 0, "sw")])
    before = load_study(folder.root)
    monkeypatch.setattr(cells, "SHARDS_AT_ONCE", at_once)
    for one, other in zip(before.shards, load_study(folder.root).shards, strict=True):
        assert (one.estimates is None) == (other.estimates is None) == (one.missing is not None)
        pairs = [(one.estimates or {}, other.estimates or {})]
        pairs += [(found, other.pooled[job_ids]) for job_ids, found in one.pooled.items()]
        assert len(one.pooled) == len(other.pooled) == (1 if one.cell.get("label_smoothing") == 0.1 else 3)
        for ours, theirs in pairs:
            assert list(ours) == list(theirs)
            for name, estimate in ours.items():
                assert np.array_equal(estimate.draws, theirs[name].draws), name


def test_many_records_go_to_several_processes(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def each_cell(work: Sequence[Work[None]], num_processes: int) -> Iterator[Loaded[None]]:
        used.append(num_processes)
        return each(work, 1)

    sweep(folder, seeds=1, languages=["en", "de"], count=25)
    folder.add({"model": "other"}, "en", random_letters("other", 25, 2.0, 0.6, 0.9))
    each = loading._each_cell
    monkeypatch.setattr(loading, "_each_cell", each_cell)
    monkeypatch.setattr(loading, "_num_cores", lambda: 64)
    for worth in (loading.WORTH_PROCESSES, 174, 175):
        monkeypatch.setattr(loading, "WORTH_PROCESSES", worth)
        load_study(folder.root)
        visit_study(folder.root, lambda planned: lambda records: None)
    assert used == [1, 1, 4, 2, 1, 1]  # 4 cells, 2 models, 175 examples


def killed(work: Work[None]) -> list[Loaded[None]]:
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory ends
    raise AssertionError


def test_a_killed_reader_is_one_sentence(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(folder, seeds=1, languages=["en"])
    monkeypatch.setattr(loading, "_load_all", killed)
    with pytest.raises(
        UserError, match="a process that reads records was killed, most likely for lack of memory"
    ):
        load_studies([folder.root], num_processes=2)


def test_progress_is_for_terminals(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    sweep(folder, seeds=1, count=25)
    for stream, is_shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        load_study(folder.root)
        assert ("reading records" in stream.getvalue()) == is_shown
