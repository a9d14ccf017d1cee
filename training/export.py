"""A trained model as an ordinary Hugging Face folder: safetensors, tokenizer, model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from study.files import sync
from study.job import Job
from study.specs import to_dict
from training.zero import World

CARD = """---
library_name: transformers
tags: [calsweep]
---
# {name}

Trained by calsweep as job `{job_id}` ({kind}). Its full specification:

```json
{spec}
```
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
    """Write `folder` from rank 0, whole or not at all; every rank must call this."""
    state = _gathered(lm, world) if zero_stage == 3 else lm.state_dict()
    if world.rank != 0:
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    lm.save_pretrained(temporary, state_dict=state)
    tokenizer.save_pretrained(temporary)
    spec = json.dumps(to_dict(job.spec), indent=1, ensure_ascii=False)
    card = CARD.format(name=job.name, job_id=job.job_id, kind=job.kind, spec=spec)
    (temporary / "README.md").write_text(card, encoding="utf-8")
    for file in temporary.rglob("*"):
        sync(file)  # DONE is on disk soon after, and says that they are
    temporary.rename(folder)


def _gathered(lm: PreTrainedModel, world: World) -> dict[str, Any]:
    """The whole weights on rank 0, from the shards of ZeRO-3; a tied head is stored once, as elsewhere."""
    import deepspeed

    state: dict[str, Any] = {}
    for name, parameter in lm.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if world.rank == 0:
                state[name] = parameter.detach().to("cpu", copy=True)
    return state
