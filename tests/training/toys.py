"""Small tokenizers of the kinds that real models have, and the fixtures of examples/data."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from study.grid.sources import content_revision
from study.jobs.specs import Hyperparameters, Source, TrainSpec
from study.rows import Row, read_rows
from tests.sweeping import ROOT

EXAMPLES = ROOT / "examples" / "data"
FIXTURES = ("alpaca", "tulu3", "openhermes", "tulu_stanford_alpaca")
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
KINDS = ("byte_level", "metaspace", "llama_2")


def fixture(name: str) -> list[Row]:
    return read_rows(EXAMPLES / f"{name}.jsonl")


def spec_of(file: Path, **hyper: object) -> TrainSpec:
    source = Source("local", str(file), content_revision(file))
    return TrainSpec(Source("hub", "x/y", "0" * 12), source, Hyperparameters(**hyper))  # type: ignore[arg-type]


def toy_tokenizer(kind: str, *, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """One kind of real tokenizers, small: trained on the fixtures; `tokenizer(text)` puts <s> in front.

    byte_level: as of Llama-3 and GPT-2. metaspace: as of newer Mistrals. llama_2: and of Mistral-v0.1.
    """
    tokenizer = Tokenizer(BPE(unk_token=None, byte_fallback=kind != "byte_level"))
    alphabet: list[str] = []
    if kind == "byte_level":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if kind != "byte_level" else []
    trainer = BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL + bytes_,
        initial_alphabet=alphabet,
        max_token_length=8,
        show_progress=False,
    )
    texts = [
        text
        for name in FIXTURES
        for text in (EXAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").split('"')
    ]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=SPECIAL[2:],
        chat_template=chat_template,
        name_or_path=f"toy-{kind}",
    )
