"""What a shard takes for a model: safetensors and GGUF files, whole; nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from study import records
from study.errors import JobError
from study.jobs.specs import Benchmark
from study.paths import JobPaths
from tests.evaluation.shards import make_job, run
from tests.evaluation.tiny import BOS, make_llama, make_tokenizer, save
from tests.gguf_files import write_gguf


def test_a_model_that_is_not_there_is_one_sentence(benchmark: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match="cannot load the model"):
        run(make_job(benchmark), JobPaths(tmp_path / "job"), tmp_path / "empty")


def test_pickled_weights_are_not_read(benchmark: Benchmark, model_folder: Path, tmp_path: Path) -> None:
    import torch

    model = make_llama()
    folder = save(model, make_tokenizer(), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(JobError, match="cannot load the model"):
        run(make_job(benchmark), JobPaths(tmp_path / "job"), folder)


def test_weights_that_are_not_there_are_not_made_up(benchmark: Benchmark, tmp_path: Path) -> None:
    folder = save(make_llama(), make_tokenizer(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JobError, match=r"lacks 1 of its weights \(lm_head.weight\)"):
        run(make_job(benchmark), JobPaths(tmp_path / "job"), folder)


def test_a_gguf_file_is_scored_as_the_model_it_was_made_from(benchmark: Benchmark, tmp_path: Path) -> None:
    model, tokenizer = make_llama(), make_tokenizer()
    tokenizer.eos_token = BOS
    file, model_folder = write_gguf(model, tokenizer, tmp_path / "m.gguf"), tmp_path / "model"
    save(model, tokenizer, model_folder)
    of_folder, of_file = JobPaths(tmp_path / "folder"), JobPaths(tmp_path / "file")
    job = make_job(benchmark)
    run(job, of_folder, model_folder)
    run(job, of_file, file)
    want, actual = (
        np.array(records.read_predictions(folder.predictions)[0]["scores"].to_pylist())
        for folder in (of_folder, of_file)
    )
    np.testing.assert_allclose(actual, want, rtol=1e-5, atol=1e-5)
