"""Where a model is loaded from, and which weights are refused."""

from __future__ import annotations

import pytest
from safetensors import SafetensorError

from modeling.loading import from_pretrained_arguments, require_all, unreadable_model
from study.errors import JobError


def test_hub_ids_and_folders_are_taken_as_they_are() -> None:
    arguments = "org/name", {"trust_remote_code": False, "revision": "c" * 40}
    assert from_pretrained_arguments("org/name", "c" * 40) == arguments
    assert from_pretrained_arguments("/models/m", None)[1]["revision"] is None


def test_a_gguf_file_is_a_file_in_a_folder() -> None:
    pytest.importorskip("gguf", reason="pip install -e '.[gguf]'")
    pytest.importorskip("accelerate", reason="pip install -e '.[gguf]'")
    arguments = "/models", {"trust_remote_code": False, "gguf_file": "m.gguf"}
    assert from_pretrained_arguments("/models/m.gguf", None) == arguments


def test_complaints_are_one_sentence() -> None:
    for error, sentence in (
        (OSError("no such\nfile"), "cannot load the model m: no such"),
        (OSError(), "cannot load the model m: "),
        (SafetensorError("torn"), "cannot load the model m: torn; copy or download it again"),
    ):
        with pytest.raises(JobError) as caught, unreadable_model("m"):
            raise error
        assert str(caught.value) == sentence


def test_weights_that_transformers_would_make_up() -> None:
    require_all("m", {"missing_keys": set(), "mismatched_keys": set()})
    with pytest.raises(JobError) as caught:
        require_all("m", {"missing_keys": set("dbca"), "mismatched_keys": {("e", (1, 2), (3, 2))}})
    assert str(caught.value) == (
        "the model m lacks 5 of its weights (a, b, c, ...): give a complete causal language model"
    )
