"""Load a causal language model and its tokenizer from a hub id, a folder of safetensors or a GGUF file.

Pickled weights are not read, and no code from a model's repository is run.

path: a hub id, a folder or a GGUF file. revision: a hub commit, None for the other two.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from study.errors import JobError
from study.models.weights import GGUF

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
UNREADABLE = (OSError, ValueError, NotImplementedError, SafetensorError)
"""What `from_pretrained` raises for a model that it cannot read."""
MAX_NAMES = 3


def load_config(path: str, revision: str | None) -> PreTrainedConfig:
    """The config of a model. Raises JobError when it cannot be read."""
    name, options = from_pretrained_arguments(path, revision)
    with unreadable_model(path):
        config: PreTrainedConfig = AutoConfig.from_pretrained(name, **options)
    return config


def load_model(
    path: str,
    revision: str | None,
    dtype: str,
    *,
    config: PreTrainedConfig | None = None,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """A model on the host with all of its weights.

    config: None for the model's own. attention: see `attention_argument`.
    Raises JobError when it cannot be read or lacks weights, ImportError when `attention` is not installed.
    """
    name, options = from_pretrained_arguments(path, revision)
    if path.endswith(GGUF):  # whole matrices instead of quantized blocks, which cannot be trained
        options["quantization_config"] = {"quant_method": "gguf", "dequantize": True}
    else:
        options["use_safetensors"] = True
    with unreadable_model(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=attention_argument(attention),
            output_loading_info=True,
            **options,
        )
    model: PreTrainedModel
    model, info = loaded
    require_all(path, info)
    return model


def load_tokenizer(path: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises JobError when it cannot be read."""
    name, options = from_pretrained_arguments(path, revision)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **options)
    except UNREADABLE as error:  # its own message is a page of packages that one might install
        raise JobError(
            f"cannot load the tokenizer of the model {path}: put its tokenizer.json and "
            "tokenizer_config.json beside the weights"
        ) from error
    return tokenizer


def attention_argument(attention: str) -> str | None:
    """`attn_implementation` for an attention of `study.jobs.resources`.

    sdpa is requested by requesting nothing: an architecture without it then gets eager attention, while an
    explicit request is refused.
    """
    return None if attention == "sdpa" else attention


def from_pretrained_arguments(path: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """Name and keyword arguments for `from_pretrained` of a config, a model or a tokenizer.

    Raises JobError for a GGUF file when a package that reads it is missing.
    """
    if not path.endswith(GGUF):
        return path, {"trust_remote_code": False, "revision": revision}
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise JobError(
                f"cannot load the model {path}: GGUF files are read with the package {package}; "
                "pip install -e '.[gguf]'"
            )
    file = Path(path)
    return str(file.parent), {"trust_remote_code": False, "gguf_file": file.name}


@contextlib.contextmanager
def unreadable_model(path: str) -> Iterator[None]:
    """Turn what transformers raises for a model that it cannot read or build into a JobError of one line."""
    try:
        yield
    except UNREADABLE as error:
        remedy = "; copy or download it again" if isinstance(error, SafetensorError) else ""
        message = (str(error).splitlines() or [""])[0]
        raise JobError(f"cannot load the model {path}: {message}{remedy}") from error


def require_all(path: str, info: Mapping[str, Any]) -> None:
    """Refuse weights that lack some of the model's, which transformers would draw at random.

    info: from `output_loading_info`. Raises JobError.
    """
    missing = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if missing:
        more = ", ..." if len(missing) > MAX_NAMES else ""
        raise JobError(
            f"the model {path} lacks {len(missing)} of its weights ({', '.join(missing[:MAX_NAMES])}{more}): "
            "give a complete causal language model"
        )
