"""Any spec and any job, for properties."""

from __future__ import annotations

from hypothesis import strategies as st

from study.jobs.job import Job
from study.jobs.specs import (
    DTYPES,
    PROTOCOLS,
    TEMPLATES,
    AnalyseSpec,
    Benchmark,
    EvalSpec,
    Hyperparameters,
    Scratch,
    Source,
    TrainSpec,
)

HEX = st.text("0123456789abcdef", min_size=12, max_size=40)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
COUNT = st.integers(1, 10**6)
SHARE = st.floats(0, 0.999)
PINNED = st.builds(Source, kind=st.sampled_from(["hub", "local", "embedded", "job"]), name=TEXT, revision=HEX)
UNTRAINED = st.builds(Source, kind=st.just("scratch"), name=TEXT, revision=HEX)

HYPERPARAMETERS = st.builds(
    Hyperparameters,
    learning_rate=st.floats(1e-9, 1),
    label_smoothing=SHARE,
    seed=st.integers(0, 2**63 - 1),
    num_examples=st.none() | COUNT,
    num_epochs=COUNT,
    num_steps=st.none() | COUNT,
    global_batch_size=COUNT,
    max_length_tokens=st.integers(2, 10**6),
    template=st.sampled_from(TEMPLATES),
    dtype=st.sampled_from(DTYPES),
    warmup_ratio=st.floats(0, 1),
    weight_decay=st.floats(0, 10),
    beta1=SHARE,
    beta2=SHARE,
    max_grad_norm=st.floats(0.001, 100),
)
SCRATCHES = st.builds(Scratch, num_heads=st.sampled_from([1, 2, 4]), tie_word_embeddings=st.booleans())
BENCHMARKS = st.builds(
    Benchmark,
    name=TEXT,
    source=PINNED,
    schema=TEXT,
    split=TEXT,
    num_items=st.none() | COUNT,
)
SPECS = st.one_of(
    st.builds(TrainSpec, model=PINNED, dataset=PINNED, hyper=HYPERPARAMETERS, scratch=st.none()),
    st.builds(TrainSpec, model=UNTRAINED, dataset=PINNED, hyper=HYPERPARAMETERS, scratch=SCRATCHES),
    st.builds(
        EvalSpec,
        model=PINNED,
        benchmark=BENCHMARKS,
        language=TEXT,
        protocol=st.sampled_from(PROTOCOLS),
        dtype=st.sampled_from(DTYPES),
    ),
    st.builds(AnalyseSpec, evaluations=st.lists(HEX, max_size=3).map(tuple)),
)
VALUES = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT


def _kind(spec: object) -> str:
    if isinstance(spec, TrainSpec):
        return "prepare" if spec.scratch is not None else "train"
    return "evaluate" if isinstance(spec, EvalSpec) else "analyse"


JOBS = st.builds(
    lambda spec, needs, cell: Job(_kind(spec), spec, tuple(needs), cell),  # type: ignore[arg-type]
    SPECS,
    st.lists(HEX, max_size=3),
    st.dictionaries(TEXT, VALUES, max_size=3),
)
