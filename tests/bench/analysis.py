"""`make bench`: what the analysis of a study costs, and the same ECE table through other libraries.

Scores are generated: nothing is read, and the time to make them is not counted. Every case runs in a separate
process, which gives its peak memory. Each is run at a quarter, a half and full size, to show how cost grows
with the records. Processor time is printed beside wall-clock time, since a busy machine stretches it less.

    python -m tests.bench.analysis          # full size
    python -m tests.bench.analysis 0.05     # a twentieth of the examples

1. All metrics of 42 languages x 14,042 questions x 4 options x 3 models, both kinds of confidence, and 1,000
   paired bootstrap replicates with intervals, null floors and Holm-corrected differences: one core.
2. The metrics alone of 36 models x 71 shards, Global-MMLU and MMLU-ProX with its 3 to 10 options: two cores.
3. The ECE table of case 1 by ours, torchmetrics and netcal, each from the same arrays, through its public
   function with all its checks; alone, and with replicates, which the others have to compute one by one (one
   table is timed, and multiplied). Ratios compare processor time.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
import multiprocessing
import os
import resource as unix_resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import metrics
from analysis.diagnoses.metrics import all_metrics
from analysis.inference import bootstrap as uncertainty
from analysis.inference import estimates as inference
from analysis.inference.changes import change, holm
from analysis.inference.estimates import Estimate
from analysis.reading.measure import estimates, measure, sum_examples
from analysis.reading.scored import CONFIDENCES, PerExample, Scored, per_example
from study.bins import FloatArray

GLOBAL_MMLU, MMLU_PROX = (42, 14_042), (29, 11_759)
REPLICATES = 1000
SHARDS_AT_ONCE = 8
ROUNDS = 25

Times = tuple[float, float]
"""Seconds of wall-clock time, and of processor time."""


class Stopwatch:
    """Adds up the time between `start` and `stop`."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def start(self) -> None:
        self.wall -= time.perf_counter()
        self.processor -= time.process_time()

    def stop(self) -> None:
        self.wall += time.perf_counter()
        self.processor += time.process_time()

    @property
    def times(self) -> Times:
        return self.wall, self.processor


def made_scores(num_items: int, most_options: int, seed: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """(N, C) nats and (N,) labels of an over-confident model; with 3 to C options if C is above 4."""
    rng = np.random.default_rng(seed)
    score = rng.normal(-4.0, 2.0, (num_items, most_options))
    score -= np.log(np.exp(score).sum(axis=1, keepdims=True)) + 0.2  # letters hold most of the probability
    num_options = rng.integers(3, 11, num_items) if most_options > 4 else np.full(num_items, most_options)
    score[np.arange(most_options) >= num_options[:, None]] = -np.inf
    right = rng.uniform(size=num_items) < 0.4
    return score, np.where(right, score.argmax(axis=1), rng.integers(0, num_options))


def made_shard(score: FloatArray, label: NDArray[np.int64]) -> Scored:
    num_options = np.isfinite(score).sum(axis=1)
    return Scored(np.arange(len(label)).astype(np.str_), label, num_options, score, None)


def every_metric(shard: Scored, examples: PerExample) -> None:
    """All metrics of one shard, by both kinds of confidence."""
    measure(shard, examples)
    for kind in CONFIDENCES:
        all_metrics(shard, examples, kind)


def metrics_and_replicates(num_items: int) -> Times:
    """Case 1."""
    num_languages, num_models = GLOBAL_MMLU[0], 3
    ids = [f"question/{k}" for k in range(num_items)]
    watch = Stopwatch()
    watch.start()
    resamples = uncertainty.resample(ids, num_replicates=REPLICATES)
    watch.stop()
    eces: list[dict[str, Estimate]] = []
    for model in range(num_models):
        of_model: list[dict[str, Estimate]] = []
        for first in range(0, num_languages, SHARDS_AT_ONCE):
            languages = range(first, min(first + SHARDS_AT_ONCE, num_languages))
            made = [made_scores(num_items, 4, seed=language * num_models + model) for language in languages]
            shards = [made_shard(*scores) for scores in made]
            watch.start()
            sums = []
            for shard in shards:
                examples = per_example(shard)
                every_metric(shard, examples)
                sums.append(sum_examples(resamples, resamples.rows(ids), shard, examples))
            of_model += estimates(resamples, sums)
            watch.stop()
        watch.start()
        for of_shard in of_model:
            for estimate in of_shard.values():
                inference.interval(estimate)
        eces.append({str(language): of_shard["ece_l2_raw"] for language, of_shard in enumerate(of_model)})
        watch.stop()
    watch.start()
    for a, b in ((eces[1], eces[0]), (eces[2], eces[1])):
        holm({language: change(a[language], b[language]).p_value for language in a})
    for by_language in eces:
        inference.mean(list(by_language.values()))
    watch.stop()
    return watch.times


def metrics_of_models(models: list[int], share: float) -> Times:
    """Case 2 for some of the models."""
    watch = Stopwatch()
    for model in models:
        for (num_languages, num_items), options in ((GLOBAL_MMLU, 4), (MMLU_PROX, 10)):
            for language in range(num_languages):
                seed = model * 100 + language
                shard = made_shard(*made_scores(round(num_items * share), options, seed))
                watch.start()
                every_metric(shard, per_example(shard))
                watch.stop()
    return watch.times


def torchmetrics_ece() -> Callable[[FloatArray, Any], float]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    functional = importlib.import_module("torchmetrics.functional.classification")

    def ece(confidence: FloatArray, correct: Any) -> float:
        return float(
            functional.binary_calibration_error(
                torch.from_numpy(confidence), torch.from_numpy(correct.astype(np.int64)), n_bins=15
            )
        )

    return ece


def netcal_ece() -> Callable[[FloatArray, Any], float]:
    one = importlib.import_module("netcal.metrics").ECE(15)
    return lambda confidence, correct: float(one.measure(confidence, correct))


def ece_table(num_items: int) -> None:
    """Case 3: the libraries take turns over all cells for several rounds; the medians are compared."""
    cells = [
        (examples.confidence["renormalised"], examples.correct)
        for seed in range(GLOBAL_MMLU[0] * 3)
        for examples in [per_example(made_shard(*made_scores(num_items, 4, seed)))]
    ]
    contenders: dict[str, Callable[[FloatArray, Any], float]] = {"ours": metrics.ece}
    for name, make in (("torchmetrics", torchmetrics_ece), ("netcal", netcal_ece)):
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed")
        else:
            contenders[name] = make()
    seconds: dict[str, list[Times]] = {name: [] for name in contenders}
    values: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, ece in contenders.items():
            watch = Stopwatch()
            watch.start()
            values[name] = [ece(confidence, correct) for confidence, correct in cells]
            watch.stop()
            seconds[name].append(watch.times)
    tables = {
        name: (statistics.median(wall for wall, _ in times), statistics.median(own for _, own in times))
        for name, times in seconds.items()
    }
    with_replicates = {
        name: (wall * (REPLICATES + 1), own * (REPLICATES + 1)) for name, (wall, own) in tables.items()
    }
    with_replicates["ours"] = ece_table_with_replicates(cells)
    for name in contenders:
        apart = max(abs(a - b) for a, b in zip(values[name], values["ours"], strict=True))
        columns = [
            f"{title} {wall:8.3f} s, processor {own:8.3f} s ({own / of_all['ours'][1]:6.1f}x)"
            for title, of_all in (("alone", tables), (f"{REPLICATES:,} replicates", with_replicates))
            for wall, own in [of_all[name]]
        ]
        print(f"  {name:13} {'; '.join(columns)}; {apart:.0e} from ours at most")


def ece_table_with_replicates(cells: list[tuple[FloatArray, Any]]) -> Times:
    """Our table, with the interval of every cell."""
    ids = [str(k) for k in range(len(cells[0][0]))]
    watch = Stopwatch()
    watch.start()
    resamples = uncertainty.resample(ids, num_replicates=REPLICATES)
    rows = resamples.rows(ids)
    for first in range(0, len(cells), SHARDS_AT_ONCE):
        sums = [
            uncertainty.sum_rows(resamples, rows, {"": confidence}, correct, {})
            for confidence, correct in cells[first : first + SHARDS_AT_ONCE]
        ]
        for of_cell in uncertainty.estimates(resamples, sums, {}):
            inference.interval(of_cell["ece_l2", ""])
    watch.stop()
    return watch.times


def in_processes(function: Callable[..., Times], *arguments: list[Any]) -> tuple[float, float, float]:
    """The longest wall-clock time, the sum of the processor times, and the sum of the peaks in GiB.

    There is one process for each element of `arguments`, with everything imported before its time begins.
    """
    context = multiprocessing.get_context("spawn")
    pools = [concurrent.futures.ProcessPoolExecutor(1, mp_context=context) for _ in arguments[0]]
    try:
        for pool in pools:
            pool.submit(peak_gib).result()
        running = [pool.submit(function, *of_one) for pool, *of_one in zip(pools, *arguments, strict=True)]
        times = [future.result() for future in running]
        peaks = [pool.submit(peak_gib).result() for pool in pools]
    finally:
        for pool in pools:
            pool.shutdown()
    return max(wall for wall, _ in times), sum(processor for _, processor in times), sum(peaks)


def peak_gib() -> float:
    return unix_resource.getrusage(unix_resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(records: int, num_cores: int, wall: float, processor: float, peak: float) -> None:
    each = processor / num_cores
    print(
        f"  {records:12,} records {wall:7.1f} s, processor {each:7.1f} s on each of {num_cores}, "
        f"{each / records * 1e6:6.2f} us a record, {peak:5.2f} GiB",
        flush=True,
    )


def main() -> None:
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("1. all metrics and 1,000 replicates, 42 languages x 3 models, one core (bar: 60 s, 6 GiB)")
    for part in (0.25, 0.5, 1.0):
        num_items = round(GLOBAL_MMLU[1] * part * share)
        report(num_items * GLOBAL_MMLU[0] * 3, 1, *in_processes(metrics_and_replicates, [num_items]))

    print("2. the metrics alone, 36 models x 71 shards, two cores (bar: 90 s, 6 GiB)")
    for num_models in (9, 18, 36):
        halves = [list(range(start, num_models, 2)) for start in (0, 1)]
        records = num_models * sum(n * round(items * share) for n, items in (GLOBAL_MMLU, MMLU_PROX))
        report(records, 2, *in_processes(metrics_of_models, halves, [share, share]))

    print("3. the ECE table of 42 languages x 3 models, one core (bar: 10x)")
    ece_table(round(GLOBAL_MMLU[1] * share))
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
