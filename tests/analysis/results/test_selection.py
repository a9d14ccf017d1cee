"""Learning rates: the lowest criterion, by hand; never by a test record."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from analysis.diagnoses.diagnose import diagnose
from analysis.reading.loading import load_study
from analysis.results.selection import Selection, select_learning_rates
from analysis.verification.verify import verify
from study.records import Prediction
from tests.analysis.studies import StudyFolder, letter
from tests.analysis.validation_studies import trained

stats = pytest.importorskip("scipy.stats")
RATES = (5e-6, 1e-5, 5e-5)


def sure(p: float, count: int = 20) -> list[Prediction]:
    """Two options, all right at probability p: the NLL is -log p."""
    return [letter([p, 1.0 - p], 0, k) for k in range(count)]


def select(folder: StudyFolder, by: str = "macro") -> list[Selection]:
    return select_learning_rates(folder.root, load_study(folder.root), by)


def study(
    folder: StudyFolder,
    by_rate: Mapping[float, Mapping[str, float | None]],
    *,
    tested: bool = True,
    **axes: Any,
) -> StudyFolder:
    """A test and a validation split; by_rate: rate -> language -> validation p, None for not done."""
    for place, (rate, languages) in enumerate(by_rate.items()):
        for language, p in languages.items():
            cell = trained(learning_rate=rate, **axes)
            # on the test split the last rate is always the best
            folder.add(cell, language, sure(0.5 + 0.1 * place) if tested else None)
            folder.add(cell, language, None if p is None else sure(p), split="validation")
    return folder


BY_HAND = {
    RATES[0]: {"en": 0.9, "sw": 0.5},
    RATES[1]: {"en": 0.8, "sw": 0.8},
    RATES[2]: {"en": 0.6, "sw": 0.6},
}


def test_the_lowest_validation_nll_wins(folder: StudyFolder) -> None:
    (selection,) = select(study(folder, BY_HAND))
    assert selection.chosen == RATES[1]
    assert selection.criterion == "NLL over the options on the validation splits, macro mean over languages"
    nlls = [-(math.log(en) + math.log(sw)) / 2 for en, sw in ((0.9, 0.5), (0.8, 0.8), (0.6, 0.6))]
    assert [candidate.value for candidate in selection.candidates] == pytest.approx(nlls, abs=1e-6)
    assert [candidate.learning_rate for candidate in selection.candidates] == list(RATES)
    assert list(selection.candidates[0].numbers) == ["cldr validation letter"]
    validation = [job["job_id"] for job in folder.jobs if job["spec"]["benchmark"]["split"] == "validation"]
    assert [job_id for candidate in selection.candidates for job_id in candidate.job_ids] == validation


def test_english_alone(folder: StudyFolder) -> None:
    (selection,) = select(study(folder, BY_HAND), "english")
    assert selection.chosen == RATES[0]
    assert selection.criterion.endswith("English")
    assert selection.candidates[0].value == pytest.approx(-math.log(0.9), abs=1e-6)
    with pytest.raises(ValueError, match="macro, english"):
        select(folder, "best")


def test_without_any_test_record_the_same_is_selected(folder: StudyFolder) -> None:
    study(folder, BY_HAND)
    with_tests = select(folder)
    for job in folder.jobs:
        if job["spec"]["benchmark"]["split"] == "test":
            (folder.root / "jobs" / job["job_id"] / "DONE").unlink()
            for part in (folder.root / "jobs" / job["job_id"] / "predictions").iterdir():
                part.unlink()
    assert select(folder) == with_tests
    assert with_tests[0].chosen is not None


def test_a_candidate_that_is_missing_might_have_been_the_best(folder: StudyFolder) -> None:
    (selection,) = select(
        study(folder, {RATES[0]: {"en": 0.9, "sw": 0.9}, RATES[1]: {"en": 0.9, "sw": None}})
    )
    assert selection.chosen is None
    assert selection.candidates[0].value == pytest.approx(-math.log(0.9), abs=1e-6)
    assert (selection.candidates[1].value, selection.candidates[1].missing) == (
        None,
        "1 of 2 validation shards missing",
    )
    assert selection.reason.startswith("nothing was selected: no NLL over the options")
    assert selection.reason.endswith("of 1e-05 (1 of 2 validation shards missing)")
    (english,) = select(folder, "english")  # in which nothing is missing; a tie: the lower rate
    assert english.chosen == RATES[0]


def test_each_smoothing_factor_chooses_and_seeds_are_averaged(folder: StudyFolder) -> None:
    for seed, first in ((0, 0.9), (1, 0.5)):
        study(folder, {RATES[0]: {"en": first}, RATES[1]: {"en": 0.7}}, seed=seed)
    study(folder, {RATES[0]: {"en": 0.9}, RATES[1]: {"en": 0.7}}, label_smoothing=0.1)
    plain, smoothed = select(folder)
    # -(log .9 + log .5) / 2 = .399 against -log .7 = .357
    assert [one.value for one in plain.candidates] == pytest.approx([0.39925, 0.35667], abs=1e-4)
    assert (plain.chosen, smoothed.chosen) == (RATES[1], RATES[0])
    assert plain.cell.get("seed") is None
    assert (plain.cell.get("label_smoothing"), smoothed.cell.get("label_smoothing")) == (0.0, 0.1)


def test_two_validation_splits_count_the_same(folder: StudyFolder) -> None:
    for rate, one, other in ((RATES[0], 0.9, 0.5), (RATES[1], 0.7, 0.7)):
        cell = trained(learning_rate=rate)
        for language in ("en", "sw"):
            folder.add(cell, language, sure(one), benchmark="a", split="validation")
        folder.add(cell, "en", sure(other), benchmark="b", split="dev")
    (selection,) = select(folder)
    assert selection.candidates[0].value == pytest.approx(-(math.log(0.9) + math.log(0.5)) / 2, abs=1e-6)
    assert selection.chosen == RATES[1]


def test_one_learning_rate_is_no_choice(folder: StudyFolder) -> None:
    (selection,) = select(study(folder, {RATES[0]: {"en": 0.9}}))
    assert (selection.chosen, selection.criterion) == (None, "none")
    assert selection.reason == "nothing was selected: 5e-06 is the only learning rate"


def log(folder: StudyFolder, rate: float, nlls: Sequence[float], *, done: bool = True, **axes: Any) -> None:
    """A test shard, and its training with a log."""
    cell, job_id = trained(learning_rate=rate, **axes), f"training-{rate:g}"
    folder.add(cell, "en", sure(0.9))
    plan = json.loads((folder.root / "plan.json").read_text())
    plan["jobs"] += [{"job_id": job_id, "kind": "train", "needs": [], "cell": cell, "spec": {}}]
    trainings = [job for job in plan["jobs"] if job["kind"] == "train"]
    folder.root.joinpath("jobs", job_id).mkdir()
    lines = [json.dumps({"step": step, "loss": 9.0, "nll": nll}) for step, nll in enumerate(nlls, start=1)]
    folder.root.joinpath("jobs", job_id, "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if done:
        folder.root.joinpath("jobs", job_id, "DONE").write_text("{}")
    kept = folder.root / "trainings.json"
    before = json.loads(kept.read_text()) if kept.is_file() else []
    plan["jobs"] = [job for job in plan["jobs"] if job["kind"] != "train"] + before + trainings[-1:]
    kept.write_text(json.dumps(before + trainings[-1:]))
    (folder.root / "plan.json").write_text(json.dumps(plan))


def test_without_validation_the_end_of_the_training_decides_and_says_so(folder: StudyFolder) -> None:
    log(folder, RATES[0], [3.0] * 18 + [1.0, 0.6])
    log(folder, RATES[1], [2.0] * 18 + [0.5, 0.9])
    (selection,) = select(folder)
    assert selection.chosen == RATES[1]
    assert [candidate.value for candidate in selection.candidates] == pytest.approx([0.8, 0.7])
    assert "training NLL" in selection.criterion
    assert "not held out" in selection.reason
    assert selection.candidates[0].job_ids == ("training-5e-06",)


@pytest.mark.parametrize("sources", [[], ["aya", "flan"]])
def test_an_axis_of_lists_finds_its_training(folder: StudyFolder, sources: list[str]) -> None:
    log(folder, RATES[0], [1.0], exclude_sources=sources)
    log(folder, RATES[1], [0.5], exclude_sources=sources)
    (selection,) = select(folder)
    assert (selection.chosen, [candidate.value for candidate in selection.candidates]) == (
        RATES[1],
        [1.0, 0.5],
    )


def test_a_training_without_a_log_selects_nothing(folder: StudyFolder) -> None:
    log(folder, RATES[0], [1.0])
    log(folder, RATES[1], [0.5], done=False)
    (selection,) = select(folder)
    assert (selection.chosen, selection.candidates[1].missing) == (None, "training not done")
    for content, missing in (("", "metrics.jsonl holds no NLL"), ("{", "metrics.jsonl cannot be read")):
        (folder.root / "jobs" / "training-5e-06" / "metrics.jsonl").write_text(content)
        assert str(select(folder)[0].candidates[0].missing).startswith(missing)


def test_where_nothing_but_the_test_split_exists_nothing_is_selected(folder: StudyFolder) -> None:
    for rate in RATES[:2]:
        folder.add(trained(learning_rate=rate), "en", sure(0.9))
    (selection,) = select(folder)
    assert selection.chosen is None
    assert "no training in the plan" in selection.reason
    assert selection.reason.startswith("nothing was selected: no last training NLL")


# --- by other criteria, and how sure
# ---------------------------------------------------------------------------------------------------


def answered(rate: float, count: int = 400) -> list[Prediction]:
    """Two options, the first of which is right: the higher rates choose it more often, and are surer."""
    rng = np.random.default_rng(int(rate * 1e7))
    right = rng.random(count) < {RATES[0]: 0.70, RATES[1]: 0.73, RATES[2]: 0.75}[rate]
    sure = {RATES[0]: 0.65, RATES[1]: 0.68, RATES[2]: 0.97}[rate]
    return [letter([sure, 1.0 - sure] if hit else [1.0 - sure, sure], 0, k) for k, hit in enumerate(right)]


def table(folder: StudyFolder) -> dict[tuple[str, str, float], dict[str, str]]:
    diagnose(folder.root)
    with (folder.root / "tables" / "selection.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["languages"], row["criterion"], float(row["learning_rate"])): row for row in rows}


def test_each_criterion_chooses_and_its_uncertainty_is_that_of_the_normal_approximation(
    folder: StudyFolder,
) -> None:
    """One language, so that each criterion is a mean over questions, and its differences are paired."""
    answers = {rate: answered(rate) for rate in RATES}
    for rate, predictions in answers.items():
        folder.add(trained(learning_rate=rate), "en", predictions, split="validation")
    found = table(folder)
    assert [key[1] for key in found][:3] == ["nll"] * 3
    p = {rate: np.exp([row.scores[row.label] for row in rows]) for rate, rows in answers.items()}
    of_items = {
        "nll": {rate: -np.log(values) for rate, values in p.items()},
        "accuracy": {rate: np.asarray(values > 0.5, dtype=float) for rate, values in p.items()},
        "brier": {rate: 2.0 * (1.0 - values) ** 2 for rate, values in p.items()},
    }
    chosen = {}
    for metric, values in of_items.items():
        rows = {rate: found["macro", metric, rate] for rate in RATES}
        means = {rate: float(np.mean(values[rate])) for rate in RATES}
        best = (max if metric == "accuracy" else min)(means, key=lambda rate: means[rate])
        (chosen[metric],) = (rate for rate in RATES if rows[rate]["is_chosen"] == "True")
        assert chosen[metric] == best
        for rate in RATES:
            difference = values[rate] - values[best]
            assert float(rows[rate]["value"]) == pytest.approx(means[rate], abs=1e-6)
            assert float(rows[rate]["difference"]) == pytest.approx(np.mean(difference), abs=1e-6)
            ends = [float(rows[rate][f"difference_{end}"]) for end in ("low", "high")]
            deviation = float(stats.sem(difference))
            expected = np.mean(difference) + 1.96 * deviation * np.array([-1.0, 1.0])
            assert ends == pytest.approx(expected, abs=0.2 * deviation)
        # how often each would be the best, if the means had a normal distribution
        deviations = np.cov([values[rate] for rate in RATES]) / len(p[RATES[0]])
        normal = stats.multivariate_normal([means[rate] for rate in RATES], deviations, seed=0).rvs(20000)
        winner = (np.argmax if metric == "accuracy" else np.argmin)(normal, axis=1)
        shares = [float(rows[rate]["share_chosen"]) for rate in RATES]
        assert math.fsum(shares) == pytest.approx(1.0)
        # 1,000 replicates: four deviations of a share are .06
        assert shares == pytest.approx([np.mean(winner == k) for k in range(3)], abs=0.07)
    assert chosen["accuracy"] == RATES[2] != chosen["nll"]  # the surest is right most often, and pays for it
    assert verify(folder.root).is_right


def test_questions_are_drawn_together_over_languages(folder: StudyFolder) -> None:
    """The same answers in three languages, one of them with two seeds, are known no better than in one."""
    both = {rate: answered(rate) for rate in RATES[:2]}
    for rate, rows in both.items():
        folder.add(trained(learning_rate=rate), "en", rows, split="validation")
    alone = table(folder)["macro", "nll", RATES[0]]
    for seed in (0, 1):
        for rate, rows in both.items():
            for language in ("sw", "yo") if seed == 0 else ("en", "sw", "yo"):
                cell = trained(learning_rate=rate, seed=seed)
                folder.add(cell, language, rows, split="validation")
    together = table(folder)["macro", "nll", RATES[0]]
    for column in ("value", "share_chosen", "difference", "difference_low", "difference_high"):
        assert float(together[column]) == pytest.approx(float(alone[column]))
    assert len(together["job_ids"].split()) == 6


def test_what_cannot_be_chosen_has_a_reason_in_the_table(folder: StudyFolder) -> None:
    found = table(study(folder, {RATES[0]: {"en": 0.9, "sw": 0.9}, RATES[1]: {"en": 0.8, "sw": None}}))
    complete, lacking = (found["macro", "brier", rate] for rate in RATES[:2])
    assert complete["missing"].startswith("nothing was selected: no Brier score on the validation splits")
    assert float(complete["value"]) == pytest.approx(2 * 0.1**2, abs=1e-6)
    assert (lacking["missing"], lacking["value"]) == ("1 of 2 validation shards missing", "")
    assert {row["share_chosen"] for row in (complete, lacking)} == {""}
    english = found["english", "accuracy", RATES[0]]  # a tie: the lower rate, in every replicate
    assert (english["is_chosen"], float(english["share_chosen"])) == ("True", 1.0)
    with pytest.raises(ValueError, match="nll, accuracy, brier"):
        select_learning_rates(folder.root, load_study(folder.root), metric="ece")


def test_without_a_validation_split_there_is_no_table(folder: StudyFolder) -> None:
    log(folder, RATES[0], [1.0])
    log(folder, RATES[1], [0.5])
    (selection,) = diagnose(folder.root).selections
    assert selection.chosen == RATES[1]
    assert {candidate.share_chosen for candidate in selection.candidates} == {None}
    assert not (folder.root / "tables" / "selection.csv").exists()
