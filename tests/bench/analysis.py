"""`make bench`: what the analysis of a study costs, and the same ECE table through other libraries.

Scores are generated: nothing is read, and what making them takes is not counted. Every case runs in a
process of its own, which gives its peak memory. Sizes are quarters and halves of the whole, so that cost can
be seen to grow with the records.

    python -m tests.bench.analysis          # whole
    python -m tests.bench.analysis 0.05     # a twentieth of the examples

1. All metrics of 42 languages x 14,042 questions x 4 options x 3 models, both kinds of confidence, and 1,000
   paired bootstrap replicates with intervals, null floors and Holm-corrected differences: one core.
2. The metrics alone of 36 models x 71 shards, Global-MMLU and MMLU-ProX with its 3 to 10 options: two cores.
3. The ECE table of 1: ours, torchmetrics, netcal, each from arrays that it takes as they are; alone, and with
   replicates, which others have to compute one by one (a few are timed, and multiplied).
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
import multiprocessing
import resource as unix_resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import binned, inference, metrics, uncertainty
from analysis.inference import Estimate
from study.bins import FloatArray, bin_predictions, error_over_bins

GLOBAL_MMLU, MMLU_PROX = (42, 14_042), (29, 11_759)
REPLICATES = 1000
ROUNDS = 5


def made_scores(num_items: int, most_options: int, seed: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """(N, C) nats and (N,) labels of an over-confident model; 3 to C options where C is above 4."""
    rng = np.random.default_rng(seed)
    score = rng.normal(-4.0, 2.0, (num_items, most_options))
    score -= np.log(np.exp(score).sum(axis=1, keepdims=True)) + 0.2  # letters hold most of the probability
    num_options = rng.integers(3, 11, num_items) if most_options > 4 else np.full(num_items, most_options)
    score[np.arange(most_options) >= num_options[:, None]] = -np.inf
    right = rng.uniform(size=num_items) < 0.4
    return score, np.where(right, score.argmax(axis=1), rng.integers(0, num_options))


def confidences(score: FloatArray, label: NDArray[np.int64]) -> tuple[dict[str, FloatArray], Any, Any]:
    """Both kinds of confidence, what was correct, and the probabilities over the options."""
    weight = np.exp(score)
    probs = weight / weight.sum(axis=1, keepdims=True)
    best = score.argmax(axis=1)[:, None]
    kinds = {
        "raw": np.take_along_axis(weight, best, 1)[:, 0],
        "renormalised": np.take_along_axis(probs, best, 1)[:, 0],
    }
    return kinds, best[:, 0] == label, probs


def all_metrics(score: FloatArray, label: NDArray[np.int64]) -> list[float]:
    """Every metric there is, of one shard."""
    kinds, correct, probs = confidences(score, label)
    num_options = np.isfinite(score).sum(axis=1)
    nll = -np.log(probs[np.arange(len(label)), label])  # as measure.py's: lists differ in length
    found = [metrics.accuracy(correct), metrics.brier(probs, label), float(np.mean(nll))]
    found.append(metrics.brier_decomposition(probs, label).reliability)
    found.append(metrics.classwise_ece(probs, label, num_options=num_options))
    found.append(metrics.chance_normalised_accuracy(correct, num_options))
    for conf in kinds.values():
        bins = bin_predictions(conf, correct)
        found += [error_over_bins(bins), binned.floor(bins), metrics.ace(conf, correct)]
        of_bins = (binned.mce, binned.rms_ce, binned.over_confidence, binned.under_confidence)
        found += [metric(bins) for metric in (*of_bins, binned.debiased_l2)]
        found.append(binned.brier_parts(bins, float(np.mean((conf - correct) ** 2))).within)
        of_pairs = (metrics.confidence_gap, metrics.smooth_ece, metrics.auroc, metrics.aurc)
        found += [metric(conf, correct) for metric in of_pairs]
        if len(conf) >= 200:
            found += [metrics.hendrycks_rms(conf, correct), metrics.mmlu_rms(conf, correct)]
        found.append(metrics.mean_confidence(conf))
        found.append(metrics.chance_normalised_confidence(conf, num_options))
    return found


def metrics_and_replicates(num_items: int) -> float:
    """Seconds of case 1."""
    num_languages, num_models = GLOBAL_MMLU[0], 3
    ids = [f"question/{k}" for k in range(num_items)]
    spent = 0.0
    eces: list[dict[str, Estimate | None]] = [{} for _ in range(num_models)]
    begin = time.perf_counter()
    resamples = uncertainty.resample(ids, num_replicates=REPLICATES)
    spent += time.perf_counter() - begin
    for language in range(num_languages):
        for model in range(num_models):
            score, label = made_scores(num_items, 4, seed=language * num_models + model)
            begin = time.perf_counter()
            all_metrics(score, label)
            rows = resamples.rows(ids)
            kinds, correct, probs = confidences(score, label)
            nll = -np.log(probs[np.arange(len(label)), label])
            for kind, conf in kinds.items():
                estimates = uncertainty.bootstrap(resamples, rows, conf, correct, {"nll": nll})
                for estimate in estimates.values():
                    inference.interval(estimate)
                uncertainty.null_floor(conf)
                if kind == "raw":
                    eces[model][str(language)] = estimates["ece"]
            spent += time.perf_counter() - begin
    begin = time.perf_counter()
    inference.compare(eces[1], eces[0])
    inference.compare(eces[2], eces[1])
    for by_language in eces:
        inference.mean(list(by_language.values()))
    return spent + time.perf_counter() - begin


def metrics_of_models(models: list[int], share: float) -> float:
    """Seconds of case 2, for some of the models."""
    spent = 0.0
    for model in models:
        for (num_languages, num_items), options in ((GLOBAL_MMLU, 4), (MMLU_PROX, 10)):
            for language in range(num_languages):
                seed = model * 100 + language
                score, label = made_scores(round(num_items * share), options, seed)
                begin = time.perf_counter()
                all_metrics(score, label)
                spent += time.perf_counter() - begin
    return spent


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
    """Case 3: libraries take turns over all cells, several rounds, and the medians are compared."""
    cells = [
        (kinds["renormalised"], correct)
        for seed in range(GLOBAL_MMLU[0] * 3)
        for kinds, correct, _ in [confidences(*made_scores(num_items, 4, seed))]
    ]
    contenders: dict[str, Callable[[FloatArray, Any], float]] = {"ours": metrics.ece}
    for name, make in (("torchmetrics", torchmetrics_ece), ("netcal", netcal_ece)):
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed")
        else:
            contenders[name] = make()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    values: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, ece in contenders.items():
            begin = time.perf_counter()
            values[name] = [ece(confidence, correct) for confidence, correct in cells]
            seconds[name].append(time.perf_counter() - begin)
    ids = [str(k) for k in range(num_items)]
    begin = time.perf_counter()
    resamples = uncertainty.resample(ids, num_replicates=REPLICATES)
    rows = resamples.rows(ids)
    for confidence, correct in cells:
        inference.interval(uncertainty.bootstrap(resamples, rows, confidence, correct)["ece"])
    whole = {"ours": time.perf_counter() - begin}
    ours = statistics.median(seconds["ours"])
    for name in contenders:
        alone = statistics.median(seconds[name])
        whole.setdefault(name, alone * (REPLICATES + 1))
        apart = max(abs(a - b) for a, b in zip(values[name], values["ours"], strict=True))
        print(
            f"  {name:13} alone {alone:7.3f} s ({alone / ours:5.1f}x), with {REPLICATES:,} replicates "
            f"{whole[name]:8.1f} s ({whole[name] / whole['ours']:6.0f}x), {apart:.0e} from ours at most"
        )


def alone(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any, float]:
    """Wall seconds, the result, and the peak in GiB, of `function` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(int).result()  # started, and everything imported
        begin = time.perf_counter()
        result = pool.submit(function, *arguments).result()
        wall = time.perf_counter() - begin
        return wall, result, pool.submit(peak_gib).result()


def peak_gib() -> float:
    return unix_resource.getrusage(unix_resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    print("1. all metrics and 1,000 replicates, 42 languages x 3 models, one core (bar: 60 s, 6 GiB)")
    for part in (0.25, 0.5, 1.0):
        num_items = round(GLOBAL_MMLU[1] * part * share)
        _, spent, peak = alone(metrics_and_replicates, num_items)
        records = num_items * GLOBAL_MMLU[0] * 3
        rate = spent / records * 1e6
        print(f"  {records:12,} records {spent:7.1f} s {rate:6.2f} us each {peak:5.2f} GiB", flush=True)

    print("2. the metrics alone, 36 models x 71 shards, two cores (bar: 90 s, 6 GiB)")
    context = multiprocessing.get_context("spawn")
    for num_models in (9, 18, 36):
        halves = [list(range(start, num_models, 2)) for start in (0, 1)]
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            spent = max(pool.map(metrics_of_models, halves, [share, share]))
            peak = max(pool.map(_peak_of, (0, 1)))
        records = num_models * sum(n * round(items * share) for n, items in (GLOBAL_MMLU, MMLU_PROX))
        rate = spent / records * 1e6
        print(f"  {records:12,} records {spent:7.1f} s {rate:6.2f} us each {2 * peak:5.2f} GiB", flush=True)

    print("3. the ECE table of 42 languages x 3 models, one core (bar: 10x)")
    ece_table(round(GLOBAL_MMLU[1] * share))


def _peak_of(_: int) -> float:
    return peak_gib()


if __name__ == "__main__":
    main()
