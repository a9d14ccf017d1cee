"""Jobs: pinned ids, exact round trips, names for people."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle

from hypothesis import given, settings

from study.errors import UserError
from study.jobs.job import Job, job_from
from study.jobs.specs import AnalyseSpec, Benchmark, EvalSpec, Hyperparameters, Source, TrainSpec
from tests.study.specs import JOBS

REVISION = "0123456789abcdef"
MODEL = Source("hub", "org/model", REVISION)
DATA = Source("embedded", "cldr-instruct", REVISION)
TRAIN = Job(
    "train",
    TrainSpec(MODEL, DATA, Hyperparameters(learning_rate=1e-3, label_smoothing=0.1, seed=0)),
    (),
    {
        "model": "org/model",
        "dataset": "cldr-instruct",
        "learning_rate": 1e-3,
        "label_smoothing": 0.1,
        "seed": 0,
    },
)
BENCHMARK = Benchmark("cldr", DATA, "global_mmlu")
EVALUATE = Job(
    "evaluate", EvalSpec(Source("job", TRAIN.job_id, TRAIN.job_id), BENCHMARK, "sw"), (), TRAIN.cell
)


def test_golden_ids() -> None:
    """An id that moves orphans the finished jobs of every study on disk: change these knowingly."""
    assert TRAIN.job_id == "d07b04150a7acbc9"
    assert EVALUATE.job_id == "e92546c68e75d1c7"
    assert Job("analyse", AnalyseSpec((REVISION,)), (REVISION,), {}).job_id == "887c0309c9078b1c"


def test_an_id_is_a_hash_of_kind_and_spec() -> None:
    text = f'{{"kind":"analyse","spec":{{"evaluations":["{REVISION}"]}}}}'
    job = Job("analyse", AnalyseSpec((REVISION,)), (REVISION,), {})
    assert job.job_id == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_cell_and_needs_are_no_part_of_the_id() -> None:
    assert dataclasses.replace(TRAIN, cell={"model": "other"}, needs=(REVISION,)).job_id == TRAIN.job_id


def test_kind_is_part_of_the_id() -> None:
    assert dataclasses.replace(TRAIN, kind="prepare").job_id != TRAIN.job_id


@settings(max_examples=100)
@given(JOBS)
def test_round_trip_through_json(job: Job) -> None:
    data = json.loads(json.dumps(job.to_dict()))
    again = job_from(data)
    assert again == job
    assert again.job_id == job.job_id == data["job_id"]
    assert json.loads(json.dumps(again.to_dict())) == data


@settings(max_examples=50)
@given(JOBS)
def test_key_order_in_the_file_does_not_matter(job: Job) -> None:
    data = json.loads(json.dumps(job.to_dict(), sort_keys=True))
    assert job_from(data).job_id == job.job_id


def test_names() -> None:
    assert TRAIN.name == "model/cldr-instruct lr=0.001 ε=0.1 seed=0"
    assert EVALUATE.name == "model/cldr-instruct lr=0.001 ε=0.1 seed=0 · cldr sw"
    assert dataclasses.replace(EVALUATE, cell={"model": "/data/tiny/"}).name == "tiny · cldr sw"
    assert Job("analyse", AnalyseSpec(()), (), {}).name == "analyse"


def test_a_mistake_survives_the_way_out_of_another_process() -> None:
    error = pickle.loads(pickle.dumps(UserError("is missing", where="study", remedy="give it")))
    assert str(error) == "study: is missing; give it"
    assert (error.what, error.where, error.remedy) == ("is missing", "study", "give it")
