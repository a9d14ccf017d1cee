"""Shots: the first items of a subject in a split that is not evaluated: files, embedded, or from the hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.items.load import load_items, load_shots
from study.errors import JobError, RecordError
from study.grid.sources import embedded_source
from study.jobs.specs import Benchmark, Source
from tests.hub_server import commit_of, serving
from tests.sweeping import ROOT
from tests.waiting import HANG_S

SUBJECTS = ("law", "math")
SHOT_SPLITS = {"global_mmlu": "dev", "mmlu_prox": "validation"}
SCHEMAS = tuple(SHOT_SPLITS)


def row(schema: str, subject: str, split: str | None, number: int) -> dict[str, Any]:
    """A row in either schema; its question names it."""
    question, answer = f"{subject} {split} {number}?", "AB"[number % 2]
    if schema == "global_mmlu":
        columns: dict[str, Any] = {"sample_id": f"{subject}/{split}/{number}", "subject": subject}
        columns |= {f"option_{letter}": f"{letter}{number}" for letter in "abcd"}
    else:
        columns = {
            "question_id": f"{subject}-{split}-{number}",
            "category": subject,
            "answer_index": number % 2,
        }
        columns |= {f"option_{i}": f"{i} of {number}" for i in range(3)}
    columns |= {"question": question, "answer": answer}
    return columns if split is None else {**columns, "split": split}


def rows(schema: str, split: str | None, count: int, subjects: tuple[str, ...] = SUBJECTS) -> list[Any]:
    """Rows of the subjects by turns."""
    return [row(schema, subject, split, number) for number in range(count) for subject in subjects]


def write(file: Path, written: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(written), file)
    else:
        file.write_text("".join(json.dumps(one) + "\n" for one in written), encoding="utf-8")


def local(folder: Path, schema: str, split: str = "test") -> Benchmark:
    return Benchmark("b", Source("local", str(folder), "0" * 16), schema, split)


def questions(benchmark: Benchmark, num_shots: int) -> dict[str, list[str]]:
    shots = load_shots(benchmark, "sw", num_shots)
    return {subject: [item.question for item in items] for subject, items in shots.items()}


def expected(split: str, count: int) -> dict[str, list[str]]:
    return {subject: [f"{subject} {split} {number}?" for number in range(count)] for subject in SUBJECTS}


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("split", ["dev", "validation"])
@pytest.mark.parametrize("beside", [None, ".jsonl", ".parquet"])
def test_shots_lie_in_a_column_or_in_a_folder_beside(
    tmp_path: Path, schema: str, split: str, beside: str | None
) -> None:
    if beside is None:
        write(tmp_path / "sw.jsonl", rows(schema, "test", 2) + rows(schema, split, 6))
    else:
        write(tmp_path / "sw.jsonl", rows(schema, "test", 2))
        write(tmp_path / split / f"sw{beside}", rows(schema, split, 6))
    assert questions(local(tmp_path, schema), 5) == expected(split, 5)
    assert questions(local(tmp_path, schema), 0) == {"law": [], "math": []}
    assert len(load_items(local(tmp_path, schema), "sw")) == 4


def test_shots_of_subjects_that_are_not_asked_are_left_alone(tmp_path: Path) -> None:
    written = rows("mmlu_prox", "test", 2, ("law",)) + rows("mmlu_prox", "validation", 2, ("law", "math"))
    write(tmp_path / "sw.jsonl", written)
    assert list(questions(local(tmp_path, "mmlu_prox"), 2)) == ["law"]


def test_subjects_with_too_few_shots_are_reported_with_counts(tmp_path: Path) -> None:
    written = rows("global_mmlu", "test", 1, ("art", "law", "math")) + rows("global_mmlu", "dev", 5, ("law",))
    write(tmp_path / "sw.jsonl", [*written, row("global_mmlu", "math", "dev", 0)])
    said = r"split 'dev': 2 of 3 subjects have fewer than 5 shots: art \(0\), math \(1\); ask for fewer"
    with pytest.raises(JobError, match=said):
        load_shots(local(tmp_path, "global_mmlu"), "sw", 5)
    with pytest.raises(JobError, match=r"1 of 3 subjects have fewer than 1 shots: art \(0\)"):
        load_shots(local(tmp_path, "global_mmlu"), "sw", 1)


def test_the_places_that_were_searched_for_shots_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "sw.jsonl", rows("global_mmlu", None, 6))
    with pytest.raises(
        JobError, match=r"no shots: looked for rows with split dev or validation in .*sw"
    ) as error:
        load_shots(local(tmp_path, "global_mmlu"), "sw", 1)  # rows without a split are not shots
    assert f"{tmp_path / 'dev'} or {tmp_path / 'validation'}" in str(error.value)
    write(tmp_path / "dev" / "yo.jsonl", rows("global_mmlu", "dev", 6))
    with pytest.raises(JobError, match=r"dev: sw\.parquet and sw\.jsonl: neither exists; valid: yo"):
        load_shots(local(tmp_path, "global_mmlu"), "sw", 1)
    write(tmp_path / "dev" / "sw.jsonl", rows("global_mmlu", "test", 6))  # rows that say they are others
    with pytest.raises(JobError, match="no shots: looked for"):
        load_shots(local(tmp_path, "global_mmlu"), "sw", 1)
    (tmp_path / "dev" / "sw.jsonl").write_text("")
    with pytest.raises(RecordError, match=r"sw\.jsonl: holds no rows"):
        load_shots(local(tmp_path, "global_mmlu"), "sw", 1)


def test_shots_in_two_places_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "sw.jsonl", rows("mmlu_prox", "test", 1) + rows("mmlu_prox", "dev", 6))
    write(tmp_path / "validation" / "sw.jsonl", rows("mmlu_prox", "validation", 6))
    with pytest.raises(JobError, match=r"several places, keep one: .*sw\.jsonl, split 'dev', .*validation"):
        load_shots(local(tmp_path, "mmlu_prox"), "sw", 1)


def test_what_is_evaluated_is_never_a_shot(tmp_path: Path) -> None:
    write(tmp_path / "sw.jsonl", rows("global_mmlu", "dev", 6))
    with pytest.raises(JobError, match="no shots: looked for rows with split validation in"):
        load_shots(local(tmp_path, "global_mmlu", "dev"), "sw", 1)
    embedded = Benchmark("cldr", embedded_source("cldr"), "global_mmlu", "dev")
    with pytest.raises(JobError, match="shots come from 'dev', which is evaluated"):
        load_shots(embedded, "sw", 1)


def test_a_shot_that_cannot_be_read_is_reported_like_an_item(tmp_path: Path) -> None:
    written = rows("global_mmlu", "test", 1) + rows("global_mmlu", "dev", 2)
    write(tmp_path / "sw.jsonl", [*written, {**row("global_mmlu", "law", "dev", 9), "answer": "F"}])
    with pytest.raises(RecordError, match=r"sw\.jsonl, split 'dev', row 5: answer is 'F'"):
        load_shots(local(tmp_path, "global_mmlu"), "sw", 1)


@pytest.mark.parametrize("name", ["cldr", "cldr_lite"])
def test_the_embedded_benchmark_has_five_parallel_shots_a_subject(name: str) -> None:
    benchmark = Benchmark(name, embedded_source(name), "global_mmlu")
    english, swahili = (load_shots(benchmark, language, 5) for language in ("en", "sw"))
    assert set(english) == {"currency", "language", "continent", "city", "calendar"}
    asked = {item.example_id for item in load_items(benchmark, "en")}
    for subject, shots in english.items():
        ids = [shot.example_id for shot in shots]
        assert len(set(ids)) == 5
        assert not set(ids) & asked
        assert ids == [shot.example_id for shot in swahili[subject]]


LOAD = """
import json, sys
from evaluation.items.load import load_items, load_shots
from study.errors import JobError
from study.jobs.specs import Benchmark, Source
schema, repository, commit, language = sys.argv[1:]
benchmark = Benchmark(schema, Source("hub", repository, commit), schema)
try:
    shots = load_shots(benchmark, language, 5)
    print(json.dumps({
        "items": [item.question for item in load_items(benchmark, language)],
        "shots": {subject: [item.question for item in items] for subject, items in shots.items()},
    }))
except JobError as error:
    print(json.dumps({"said": str(error)}))
"""


def load(*arguments: str, **variables: str) -> Any:
    """In a separate process: the hub's clients read their variables when they are imported."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *arguments],
        cwd=ROOT, env={"PATH": "", "HOME": variables["HF_HOME"], **variables},
        capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=SCHEMAS)
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A benchmark on a hub: one config per language, each with two splits in separate files."""
    schema: str = request.param
    folder, card = tmp_path / "hub" / "datasets" / "org" / schema, "---\nconfigs:\n"
    for language in ("en", "sw"):
        card += f"- config_name: {language}\n  data_files:\n"
        for split, count in (("test", 2), (SHOT_SPLITS[schema], 6)):
            written = [{k: v for k, v in one.items() if k != "split"} for one in rows(schema, split, count)]
            write(folder / language / f"{split}.parquet", written)
            card += f"  - split: {split}\n    path: {language}/{split}.parquet\n"
    (folder / "README.md").write_text(card + "---\n", encoding="utf-8")
    return schema, folder


def test_items_and_shots_come_from_the_hub_and_then_from_its_cache(
    repository: tuple[str, Path], tmp_path: Path
) -> None:
    schema, folder = repository
    asked, home = (schema, f"org/{schema}", commit_of(folder)), str(tmp_path / "home")
    with serving(tmp_path / "hub") as hub:
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": home}
        fetched = load(*asked, "sw", **online)
        unknown = load(*asked, "sww", **online)["said"]
    assert fetched["items"] == [f"{subject} test {n}?" for n in range(2) for subject in SUBJECTS]
    assert fetched["shots"] == expected(SHOT_SPLITS[schema], 5)
    assert unknown.endswith("; did you mean 'sw'?")
    # a port where nobody listens: any request to the hub fails
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    assert load(*asked, "sw", HF_HOME=home, **offline) == fetched
    never_fetched = load(*asked, "en", HF_HOME=home, **offline)["said"]
    assert never_fetched.startswith(f"cannot load org/{schema} (en, test) at {asked[2][:12]}: ")
    assert never_fetched.endswith("; where there is no network, download it before the job")
