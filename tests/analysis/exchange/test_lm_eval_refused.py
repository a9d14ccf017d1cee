"""`import-lm-eval`: a task that cannot be used takes no other with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis.cli import main
from analysis.exchange.lm_eval import import_lm_eval
from study.paths import StudyPaths
from tests.analysis.exchange.test_lm_eval_import import KEPT, edit, edit_results, only, rows_of, samples


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(KEPT, tmp_path / "output"))


def test_ids_that_repeat_within_a_task_name_no_item(output: Path, tmp_path: Path) -> None:
    def numbered(logged: list[dict[str, Any]]) -> None:
        for place, sample in enumerate(logged):
            sample["doc"]["sample_id"] = place // 2

    edit(output, "toymmlu_sw_anatomy", numbered)
    root = tmp_path / "s"
    imported = import_lm_eval(output, root)
    assert "toymmlu_sw_anatomy" not in imported.refused
    assert [row["example_id"] for row in rows_of(root, "toymmlu", "sw")] == [
        f"anatomy/{sample['doc_id']}" for sample in samples(output, "toymmlu_sw_anatomy")
    ]


def test_one_item_in_two_tasks_refuses_these_two(output: Path, tmp_path: Path) -> None:
    def numbered(logged: list[dict[str, Any]]) -> None:
        for place, sample in enumerate(logged):
            sample["doc"]["sample_id"] = f"shared-{place}"

    edit(output, "toymmlu_en_anatomy", numbered)
    edit(output, "toymmlu_en_virology", numbered)
    root = tmp_path / "s"
    imported = import_lm_eval(output, root)
    sentence = "item 'shared-0' occurs in more than one of toymmlu_en_anatomy, toymmlu_en_virology"
    for task in ("toymmlu_en_anatomy", "toymmlu_en_virology"):
        assert imported.refused[task] == f"{sentence}; import them into two studies"
    assert len(imported.new) == 1
    assert len(rows_of(root, "toymmlu", "sw")) == 4


def test_where_every_task_is_refused_there_is_no_study(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_results(output, only("toytext_en"))
    root = tmp_path / "s"
    assert main(["import-lm-eval", str(output), str(root)]) == 1
    assert capsys.readouterr().out.endswith("imported 0 shards; 1 tasks refused\n")
    assert not root.exists()
    assert main(["tables", str(root)]) == 2
    assert "is not a study" in capsys.readouterr().err
    # into a study that is there
    import_lm_eval(KEPT, root)
    before = StudyPaths(root).plan.read_bytes()
    assert main(["import-lm-eval", str(output), str(root)]) == 1
    assert StudyPaths(root).plan.read_bytes() == before
    assert len(json.loads(before)["jobs"]) == 2
