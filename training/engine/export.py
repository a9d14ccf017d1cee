"""A trained model as an ordinary Hugging Face folder: safetensors, tokenizer, model card."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from study.files import sync
from study.jobs.job import Job
from study.jobs.specs import TrainSpec, to_dict
from training.data.templates import chat_template
from training.engine.dropout import restored
from training.engine.zero import World

logger = logging.getLogger(__name__)

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [calsweep]
---
# {name}

Trained by calsweep as job `{job_id}` ({kind}). Its full specification:

```json
{spec}
```

The tokenizer's chat template is the one of the training (`{template}`).
"""


def save_model(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    job: Job,
    folder: Path,
    *,
    zero_stage: int,
    world: World,
) -> None:
    """Write `folder` from rank 0, complete or not at all; every rank must call this.

    The weights are in the dtype of the training; the config keeps the model's own dropout.
    """
    assert isinstance(job.spec, TrainSpec)
    template = job.spec.hyper.template
    state = _gathered(lm, world) if zero_stage == 3 else lm.state_dict()
    if world.rank != 0:
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    _fix_generation_config(lm)
    with restored(lm):
        lm.save_pretrained(temporary, state_dict=state)
    exported = copy.copy(tokenizer)
    exported.chat_template = chat_template(template, tokenizer)
    exported.save_pretrained(temporary)
    spec = json.dumps(to_dict(job.spec), indent=1, ensure_ascii=False)
    card = CARD.format(name=job.name, job_id=job.job_id, kind=job.kind, spec=spec, template=template)
    (temporary / "README.md").write_text(card, encoding="utf-8")
    for file in temporary.rglob("*"):
        sync(file)  # DONE is written soon after and must not reach the disk before them
    temporary.rename(folder)


def _fix_generation_config(lm: PreTrainedModel) -> None:
    """Drop contradictory sampling settings: many models have them, and transformers refuses to save them."""
    settings = lm.generation_config
    if settings is None:
        return
    try:
        settings.validate(strict=True)
    except ValueError as error:
        logger.warning("the model's generation config is left out: %s", str(error).splitlines()[0])
        tokens = {name: getattr(settings, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        lm.generation_config = GenerationConfig(**tokens)


def _gathered(lm: PreTrainedModel, world: World) -> dict[str, Any]:
    """All weights on rank 0, from the shards of ZeRO-3; a tied head is stored once, as at other stages."""
    import deepspeed

    # buffers are complete on every rank
    state = {name: tensor for name, tensor in lm.state_dict().items() if name in dict(lm.named_buffers())}
    for name, parameter in lm.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if world.rank == 0:
                state[name] = parameter.detach().to("cpu", copy=True)
    return state
