"""tables/diagnostics.csv: positions, mass, tokens and rotations, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.diagnoses.diagnose import diagnose
from analysis.diagnoses.rows import Row
from analysis.exchange.lm_eval import import_lm_eval
from study.records import Prediction
from tests.analysis.studies import StudyFolder, letter

HIGH, LOW = 0.7, 0.1


def shown(label: int, predicted: int, number: int, size: int = 3, tokens: int = 20) -> Prediction:
    """An item whose prediction is the option shown at a place."""
    probabilities = [HIGH if place == predicted else LOW for place in range(size)]
    return replace(letter(probabilities, label, number), num_prompt_tokens=tokens)


def rows_of(folder: StudyFolder) -> dict[str, Row]:
    return {row["name"]: row for row in diagnose(folder.root).rows["diagnostics"]}


def test_positions_mass_and_tokens_by_hand(folder: StudyFolder) -> None:
    english = [shown(label, 0, k, tokens=10) for k, label in enumerate((0, 1, 2, 0))]
    swahili = [
        shown(label, label, k, size=2 if label < 2 else 3, tokens=25) for k, label in enumerate((0, 1, 2, 0))
    ]
    first = folder.add({"model": "m"}, "en", english)
    second = folder.add({"model": "m"}, "sw", swahili[::-1])
    rows = rows_of(folder)
    en, sw = rows["en"], rows["sw"]
    # predicted 1, 0, 0; labelled 1/2, 1/4, 1/4: half of the predictions would have to move
    assert en["position_distance"] == pytest.approx(0.5)
    assert (en["most_predicted_position"], en["most_predicted_share"]) == (0, 1.0)
    # recall is 1, 0, 0
    assert en["position_recall_deviation"] == pytest.approx((2 / 9) ** 0.5)
    assert (sw["position_distance"], sw["position_recall_deviation"]) == (0.0, 0.0)
    assert (en["accuracy"], sw["accuracy"], en["n"]) == (0.5, 1.0, 4)
    assert en["chance"] == pytest.approx(1 / 3)
    assert sw["chance"] == pytest.approx((3 / 2 + 1 / 3) / 4)
    assert en["option_mass_mean"] == pytest.approx(0.9)
    assert sw["option_mass_mean"] == pytest.approx((3 * 0.8 + 0.9) / 4)
    assert en["option_mass_share_below_half"] == 0.0
    assert (en["prompt_tokens"], en["token_premium"]) == (10.0, 1.0)
    assert (sw["prompt_tokens"], sw["token_premium"]) == (25.0, 2.5)
    assert (en["job_ids"], sw["job_ids"]) == ([first], [second, first])
    for column in ("accuracy_original_order", "accuracy_averaged", "share_rotation_dependent"):
        assert en[column] is None


def asked(number: int, label: int, places: list[int]) -> list[Prediction]:
    """An item of three options: for each rotation the place that is predicted."""
    return [
        replace(shown((label - rotation) % 3, place, number), rotation=rotation)
        for rotation, place in enumerate(places)
    ]


def test_what_rotating_changed_by_hand(folder: StudyFolder) -> None:
    rows = [
        *asked(0, 1, [1, 0, 2]),  # always the option b, and right
        *asked(1, 0, [0, 0, 1]),  # a, b, a: right at first, and in the mean
        *asked(2, 2, [0, 1, 0]),  # a, c, c: wrong at first, right in the mean
    ]
    folder.add({"model": "m"}, "en", rows)
    row = rows_of(folder)["en"]
    assert row["share_rotation_dependent"] == pytest.approx(2 / 3)
    assert row["accuracy_original_order"] == pytest.approx(2 / 3)
    assert row["accuracy_averaged"] == pytest.approx(1.0)
    assert row["accuracy"] == row["accuracy_averaged"]
    assert row["n"] == 3
    # shown: places predicted 5, 3, 1 of 9; the right option stood at each place three times
    assert row["position_distance"] == pytest.approx(2 / 9)
    assert row["most_predicted_share"] == pytest.approx(5 / 9)


def test_what_is_not_there_is_marked(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", None, failed=True)
    folder.add({"model": "m"}, "sw", [shown(0, 0, k) for k in range(3)])
    rows = rows_of(folder)
    assert (rows["en"]["missing"], rows["en"]["n"]) == ("failed", None)
    assert rows["sw"]["missing"] is None
    assert rows["sw"]["token_premium"] is None
    assert rows["sw"]["token_premium_missing"] == "no records of en"


def test_other_items_than_english_have_no_premium(folder: StudyFolder) -> None:
    folder.add({"model": "m"}, "en", [shown(0, 0, k) for k in range(3)])
    folder.add({"model": "m"}, "sw", [shown(0, 0, k) for k in range(4)])
    row = rows_of(folder)["sw"]
    assert (row["token_premium"], row["token_premium_missing"]) == (None, "other items than en")


def test_prompts_whose_tokens_nobody_counted_have_no_number(folder: StudyFolder) -> None:
    for language, tokens in (("en", 10), ("sw", 25), ("yo", -1)):
        folder.add({"model": "m"}, language, [shown(0, 0, 0, tokens=10), shown(0, 0, 1, tokens=tokens)])
    rows = rows_of(folder)
    assert (rows["sw"]["prompt_tokens"], rows["sw"]["token_premium"]) == (17.5, 1.75)
    assert (rows["yo"]["prompt_tokens"], rows["yo"]["token_premium"]) == (None, None)
    assert rows["yo"]["token_premium_missing"] == "nobody counted the tokens of its prompts"


def test_an_import_from_lm_eval_without_a_tokenizer_can_be_diagnosed(tmp_path: Path) -> None:
    import_lm_eval(Path(__file__).parents[1] / "exchange" / "lm_eval_output", tmp_path / "s")
    rows = diagnose(tmp_path / "s").rows["diagnostics"]
    assert {row["name"]: row["n"] for row in rows} == {"en": 7, "sw": 4}
    assert {row["prompt_tokens"] for row in rows} == {None}


def test_english_whose_tokens_nobody_counted_gives_no_premium(folder: StudyFolder) -> None:
    for language, tokens in (("en", -1), ("sw", 25)):
        folder.add({"model": "m"}, language, [shown(0, 0, k, tokens=tokens) for k in range(3)])
    row = rows_of(folder)["sw"]
    assert (row["prompt_tokens"], row["token_premium"]) == (25.0, None)
    assert row["token_premium_missing"] == "nobody counted the tokens of en"


def test_option_text_has_no_mass(folder: StudyFolder) -> None:
    rows = [replace(shown(0, 0, k), option_mass=None, option_num_tokens=[1, 2, 3]) for k in range(3)]
    folder.add({"model": "m"}, "en", rows, protocol="option_text")
    row = rows_of(folder)["en"]
    assert row["missing"] is None
    assert row["option_mass_mean"] is None
