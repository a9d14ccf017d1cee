"""`import-lm-eval`: what lm-evaluation-harness 0.4.13 logged becomes records, or is refused by name.

`lm_eval_output` was written by its command line with a tiny random Llama; only paths and what is not read
were taken out of its results.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.exchange.lm_eval import import_lm_eval
from analysis.exchange.lm_eval_samples import token_counter
from analysis.reading.loading import load_study
from study.errors import RecordError, UserError
from study.files import write_json
from study.paths import StudyPaths
from study.records import read_predictions
from tests.evaluation.peer import REMEDY
from tests.evaluation.tiny import make_llama, make_tokenizer

KEPT = Path(__file__).with_name("lm_eval_output")
DATE = "2026-01-01T00-00-00.000000"
TASKS = ("toymmlu_en_anatomy", "toymmlu_en_virology", "toymmlu_sw_anatomy", "toymutual_en", "toytext_en")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(KEPT, tmp_path / "output"))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    make_tokenizer(bos=True).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def samples(output: Path, task: str) -> list[dict[str, Any]]:
    lines = (output / "org__tiny" / f"samples_{task}_{DATE}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def edit(output: Path, task: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    changed = samples(output, task)
    change(changed)
    file = output / "org__tiny" / f"samples_{task}_{DATE}.jsonl"
    file.write_text("".join(json.dumps(sample) + "\n" for sample in changed), encoding="utf-8")


def edit_results(output: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = output / "org__tiny" / f"results_{DATE}.json"
    results = json.loads(file.read_text(encoding="utf-8"))
    change(results)
    file.write_text(json.dumps(results), encoding="utf-8")


def only(*tasks: str) -> Callable[[dict[str, Any]], object]:
    def keep(results: dict[str, Any]) -> None:
        results["configs"] = {name: results["configs"][name] for name in tasks}

    return keep


def rows_of(root: Path, benchmark: str, language: str) -> list[dict[str, Any]]:
    (shard,) = [s for s in load_study(root).shards if (s.benchmark, s.language) == (benchmark, language)]
    table, info = read_predictions(StudyPaths(root).job(shard.job_id).predictions)
    assert (info.benchmark, info.language, info.split) == (benchmark, language, "test")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_tasks_become_shards_whose_accuracy_is_the_harness_s(tmp_path: Path, tokenizer: Path) -> None:
    imported = import_lm_eval(KEPT, tmp_path / "s", tokenizer=tokenizer)
    assert (len(imported.new), imported.refused) == (4, {})
    results = json.loads((KEPT / "org__tiny" / f"results_{DATE}.json").read_text())["results"]
    expected = {
        ("toymmlu", "en", "letter"): results["toymmlu_en"]["acc,none"],  # the group of two subjects
        ("toymmlu", "sw", "letter"): results["toymmlu_sw_anatomy"]["acc,none"],
    }
    study = load_study(tmp_path / "s")
    by_place = {(s.benchmark, s.language, s.protocol): s.metrics for s in study.shards}
    assert by_place.keys() == {
        *expected,
        ("toytext", "en", "option_text"),
        ("toymutual", "en", "option_text"),
    }
    for key, accuracy in expected.items():
        metrics = by_place[key]
        assert metrics is not None
        assert metrics["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert [cell.get("model") for cell in study.runs()] == ["org/tiny"]


def test_a_record_by_hand(tmp_path: Path) -> None:
    """The first document, as it stands in the file."""
    import_lm_eval(KEPT, tmp_path / "s")
    rows = rows_of(tmp_path / "s", "toymmlu", "en")
    assert [row["example_id"] for row in rows] == [
        *(f"anatomy/test/{i}" for i in range(4)),
        *(f"virology/test/{i}" for i in range(3)),
    ]
    logged = [-7.648390769958496, -6.640780925750732, -7.989593029022217, -8.36569881439209]
    first = rows[0]
    assert np.array_equal(
        np.array(first["scores"], np.float32).view(np.uint32), np.array(logged, np.float32).view(np.uint32)
    )
    assert first["option_mass"] == pytest.approx(sum(math.exp(score) for score in logged), rel=1e-6)
    assert {key: first[key] for key in ("subject", "label", "option_num_tokens", "rotation")} == {
        "subject": "anatomy", "label": 0, "option_num_tokens": None, "rotation": 0,
    }  # fmt: skip
    assert first["num_prompt_tokens"] == -1, "unknown, not zero"
    assert [row["label"] for row in rows] == [0, 3, 2, 1, 0, 3, 2]  # "ABCD"[i * 3 % 4]


def test_options_that_are_text_need_a_tokenizer(tmp_path: Path, tokenizer: Path) -> None:
    imported = import_lm_eval(KEPT, tmp_path / "s")
    assert imported.exit_code == 1
    assert imported.refused.keys() == {"toytext_en", "toymutual_en"}
    assert "how many tokens they have was not logged" in imported.refused["toytext_en"]
    again = import_lm_eval(KEPT, tmp_path / "s", tokenizer=tokenizer)
    assert (len(again.new), len(again.before), again.refused) == (2, 2, {})
    for benchmark in ("toytext", "toymutual"):  # unconditional scores are left out
        (first, *_) = rows_of(tmp_path / "s", benchmark, "en")
        # " Nairobi", " water x", " two x x", " phoo" in a tokenizer of bytes
        assert first["option_num_tokens"] == [8, 8, 8, 5]
        assert first["scores"] == pytest.approx(
            [-57.54894256591797, -60.636474609375, -60.61974334716797, -34.001556396484375], abs=1e-6
        )
        prompt = samples(KEPT, f"{benchmark}_en")[0]["arguments"]["gen_args_0"]["arg_0"]
        assert first["num_prompt_tokens"] == 1 + len(prompt.encode()) - prompt.count(" A") - prompt.count(
            " B"
        )
    assert rows_of(tmp_path / "s", "toytext", "en")[0]["option_mass"] is None


def test_a_second_import_changes_nothing_and_another_model_is_added(output: Path, tmp_path: Path) -> None:
    root = tmp_path / "s"
    first = import_lm_eval(output, root)
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    again = import_lm_eval(output, root)
    assert (again.new, again.before) == ([], first.new)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == files

    edit_results(output, lambda results: results.update(model_name="org/other"))
    assert len(import_lm_eval(output, root).new) == 2
    assert [cell.get("model") for cell in load_study(root).runs()] == ["org/tiny", "org/other"]
    assert not load_study(root).missing


def lose(key: str) -> Callable[[list[dict[str, Any]]], object]:
    return lambda logged: logged[0].pop(key)


def put(key: str, value: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda logged: logged[1].__setitem__(key, value)


def two_prompts(logged: list[dict[str, Any]]) -> None:
    logged[0]["arguments"]["gen_args_1"]["arg_0"] = "another"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lose("resps"), "line 1: is not a sample of lm_eval"),
        (lose("arguments"), "line 1: is not a sample of lm_eval"),
        (put("doc_hash", float("nan")), "line 2: is not a sample of lm_eval"),
        (put("arguments", {"gen_args_0": {}}), "document 1: is not a multiple_choice sample"),
        (put("resps", [[["-1.0", "False"]]] * 3), "document 1: 3 scores for 4 options"),
        (put("resps", [[["nan", "False"]]] * 4), "document 1: scores .* are not log-probabilities"),
        (put("resps", [[["0.5", "False"]]] * 4), "document 1: scores .* are not log-probabilities"),
        (put("target", "E"), "document 1: target 'E' does not agree"),
        (put("acc", 1.0), "document 1: target 'D' does not agree with its accuracy"),
        (put("doc_id", 0), "line 2: document 0 a second time"),
        (two_prompts, "document 0: its options are prompts"),
        (list.clear, "holds no samples"),
    ],
)
def test_samples_that_cannot_be_right_are_refused(
    change: Callable[[list[dict[str, Any]]], object], sentence: str, output: Path, tmp_path: Path
) -> None:
    edit(output, "toymmlu_sw_anatomy", change)
    imported = import_lm_eval(output, tmp_path / "s")
    assert imported.refused.keys() == {"toymmlu_sw_anatomy", "toymutual_en", "toytext_en"}
    with pytest.raises(RecordError, match=sentence):
        raise RecordError(imported.refused["toymmlu_sw_anatomy"])
    assert {s.language for s in load_study(tmp_path / "s").shards} == {"en"}


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=4)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 3), key=st.sampled_from(sorted(samples(KEPT, TASKS[0])[0])), value=JSON)
def test_whatever_a_sample_holds_it_is_read_or_refused(place: int, key: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(shutil.copytree(KEPT, Path(scratch, "output")))
        edit(output, "toymmlu_sw_anatomy", lambda logged: logged[place].__setitem__(key, value))
        imported = import_lm_eval(output, Path(scratch, "s"))
        unread = "toymmlu_sw_anatomy" in imported.refused
        assert {s.language for s in load_study(Path(scratch, "s")).shards} == (
            {"en"} if unread else {"en", "sw"}
        )
        assert not load_study(Path(scratch, "s")).missing


def test_a_target_is_a_number_or_a_text_as_the_accuracy_says(output: Path, tmp_path: Path) -> None:
    """Options 3, 2, 1, 0: target 3 is the first one by its text, and the last one by its place."""
    for acc, label in ((1.0, 0), (0.0, 3)):

        def digits(logged: list[dict[str, Any]], acc: float = acc) -> None:
            del logged[1:]
            for place in range(4):
                logged[0]["arguments"][f"gen_args_{place}"]["arg_1"] = f" {3 - place}"
            logged[0].update(
                target="3", acc=acc, resps=[[[f"-{place + 1}.5", "False"]] for place in range(4)]
            )

        edit(output, "toytext_en", digits)
        edit_results(output, only("toytext_en"))
        root = tmp_path / str(acc)
        make_tokenizer(bos=True).save_pretrained(tmp_path / "tokenizer")
        assert not import_lm_eval(output, root, tokenizer=tmp_path / "tokenizer").refused
        assert [row["label"] for row in rows_of(root, "toytext", "en")] == [label]


def test_several_filters_log_a_document_more_than_once(output: Path, tmp_path: Path) -> None:
    edit(
        output, "toymmlu_sw_anatomy", lambda logged: logged.extend([{**one, "filter": "b"} for one in logged])
    )
    import_lm_eval(output, tmp_path / "s")
    assert len(rows_of(tmp_path / "s", "toymmlu", "sw")) == 4


def rename(output: Path, old: str, new: str) -> None:
    folder = output / "org__tiny"
    (folder / f"samples_{old}_{DATE}.jsonl").rename(folder / f"samples_{new}_{DATE}.jsonl")
    edit_results(output, lambda results: results["configs"].update({new: results["configs"].pop(old)}))


def test_a_task_without_a_language(output: Path, tmp_path: Path) -> None:
    for subject in ("anatomy", "virology"):
        rename(output, f"toymmlu_en_{subject}", f"plain_{subject}")
    edit_results(output, only("plain_anatomy", "plain_virology"))
    edit_results(output, lambda results: results.update(group_subtasks={"plain": [], "plain_anatomy_x": []}))
    imported = import_lm_eval(output, tmp_path / "refused")
    assert imported.refused["plain_anatomy"].endswith("its name has no language; say which with --language")
    assert not import_lm_eval(output, tmp_path / "s", language="en").refused
    assert len(rows_of(tmp_path / "s", "plain", "en")) == 7


def test_a_name_with_two_languages_is_told_apart_by_its_dataset(output: Path, tmp_path: Path) -> None:
    rename(output, "toymmlu_sw_anatomy", "toymmlu_sw_id")
    edit_results(output, only("toymmlu_sw_id"))
    assert "any of sw, id" in import_lm_eval(output, tmp_path / "s").refused["toymmlu_sw_id"]
    edit_results(output, lambda results: results["configs"]["toymmlu_sw_id"].update(dataset_name="sw"))
    import_lm_eval(output, tmp_path / "s")
    assert len(rows_of(tmp_path / "s", "toymmlu", "sw")) == 4


def test_what_cannot_be_in_one_study_is_refused(output: Path, tmp_path: Path) -> None:
    root = tmp_path / "s"
    import_lm_eval(output, root)
    before = StudyPaths(root).plan.read_bytes()
    edit_results(output, lambda results: results["config"]["model_args"].update(dtype="bfloat16"))
    with pytest.raises(UserError, match="org/tiny was asked toymmlu, test, en, letter in two ways"):
        import_lm_eval(output, root)
    edit_results(output, lambda results: results.update(model_name="org/other"))
    edit(output, "toymmlu_sw_anatomy", lambda logged: logged.pop())
    with pytest.raises(UserError, match="org/other was asked other items of toymmlu, test, sw"):
        import_lm_eval(output, root)
    assert StudyPaths(root).plan.read_bytes() == before

    # the same run with other scores is not the same run
    other = Path(shutil.copytree(KEPT, tmp_path / "again"))
    edit(other, "toymmlu_sw_anatomy", put("resps", [[["-9.5", "False"]]] * 3 + [[["-1.5", "False"]]]))
    edit(other, "toymmlu_sw_anatomy", put("acc", 1.0))
    with pytest.raises(RecordError, match=r"example 'anatomy/test/1', scores.*nothing was changed"):
        import_lm_eval(other, root)


def test_mistakes(output: Path, tmp_path: Path) -> None:
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "grid.yaml").write_text("study: s\n")
    with pytest.raises(UserError, match="is a study that was swept"):
        import_lm_eval(output, tmp_path / "swept")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no results_\*.json"):
        import_lm_eval(tmp_path / "empty", tmp_path / "s")
    with pytest.raises(UserError, match="there is no such file"):
        import_lm_eval(output, tmp_path / "s", tokenizer=tmp_path / "empty")
    edit_results(
        output, lambda results: results["configs"]["toytext_en"].update(output_type="generate_until")
    )
    (output / "org__tiny" / f"samples_toymmlu_en_anatomy_{DATE}.jsonl").unlink()
    refused = import_lm_eval(output, tmp_path / "s").refused
    assert "a task of generate_until" in refused["toytext_en"]
    assert "is missing; run lm_eval with --log_samples" in refused["toymmlu_en_anatomy"]
    # a test of fewer items is another test
    sentence = "toymmlu_en_anatomy, of the same benchmark and language, was refused"
    assert refused["toymmlu_en_virology"] == sentence
    assert {s.language for s in load_study(tmp_path / "s").shards} == {"sw"}
    write_json(output / "results_of_something_else.json", {"a": 1})
    with pytest.raises(RecordError, match="is not a result of lm_eval"):
        import_lm_eval(output, tmp_path / "s")


@pytest.mark.lm_eval
def test_tokens_are_counted_as_the_harness_does(tokenizer: Path) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip(REMEDY)
    from tests.evaluation.peer import hflm

    lm, count = hflm(make_llama(), make_tokenizer(bos=True)), token_counter(tokenizer)
    for prompt in ("Q: 水 Nairobi\nAnswer:", "Q: blanks  ", "tab\t\n"):
        for option in (" A", " Jomo", "ሰላም", "  two"):
            before, after = lm._encode_pair(prompt, option)
            assert count(prompt, option) == (len(before), len(after))
