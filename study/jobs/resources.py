"""What a task requests from the cluster, and how it uses it. Outside identity: it changes only rounding."""

from __future__ import annotations

from dataclasses import dataclass

from study.jobs.specs import one_of, positive, require

ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")


@dataclass(frozen=True)
class Resources:
    """What one task requests from the cluster, and how it uses it. Outside identity.

    tasks_per_node: one rank each. mem_gib: per node. time_min: wall-clock time.
    micro_batch_size, micro_batch_tokens: the most examples, and the most tokens with padding, in a forward
        pass of a training rank; a longer example is a micro-batch by itself.
    packing: concatenate the examples of a micro-batch, without padding and without attention between them;
        useful where attention has a kernel for it.
    attention: the implementation, as transformers names it.
    activation_checkpointing: recompute activations in the backward pass, to save memory.
    zero_stage: DeepSpeed's stage, 1 to 3. offload_optimizer: keep the optimizer's state in host memory.
    batch_tokens: padded tokens per forward pass of an evaluation.
    resume: an attempt resumes from the checkpoint of the one before; false: it starts from the beginning.
    checkpoint_every_min: minutes between the checkpoints of a training; a job that is killed loses no more.
        keep_checkpoints: how many complete ones are kept while it runs, the newest.
    save_only_model: checkpoints are models without the optimizer's state, to examine; needs resume: false.
    """

    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    gpus_per_node: int = 0
    mem_gib: float = 4
    time_min: int = 60
    micro_batch_size: int = 64
    micro_batch_tokens: int = 8192
    packing: bool = False
    attention: str = "sdpa"
    activation_checkpointing: bool = False
    zero_stage: int = 2
    offload_optimizer: bool = False
    batch_tokens: int = 16384
    resume: bool = True
    checkpoint_every_min: float = 30
    keep_checkpoints: int = 2
    save_only_model: bool = False

    def __post_init__(self) -> None:
        for name in (
            "nodes",
            "tasks_per_node",
            "cpus_per_task",
            "time_min",
            "micro_batch_size",
            "micro_batch_tokens",
            "batch_tokens",
            "keep_checkpoints",
        ):
            require(getattr(self, name) >= 1, name, "give 1 or more")
        require(self.gpus_per_node >= 0, "gpus_per_node", "give 0 or more")
        require(positive(self.mem_gib), "mem_gib", "give a positive number")
        require(positive(self.checkpoint_every_min), "checkpoint_every_min", "give a positive number")
        one_of(self.attention, ATTENTIONS, "attention")
        require(
            not (self.save_only_model and self.resume),
            "save_only_model",
            "remove it, or write resume: false too: no attempt can resume without the optimizer's state",
        )
        require(
            self.zero_stage in (1, 2, 3),
            "zero_stage",
            "give 1, 2 or 3: at stage 0 in bf16 DeepSpeed takes a dummy optimizer step at start-up",
        )

    @property
    def num_tasks(self) -> int:
        return self.nodes * self.tasks_per_node
