"""A word-level tokenizer for the embedded demo: a complete name ("South Africa", "德国") is one token.

With one token per name a model of 1M parameters learns hundreds of facts in a minute; with sub-words it does
not. The result is an ordinary Hugging Face tokenizer, complete in its tokenizer.json.

    "<s>" In which country is this city Bucharest A Andorra B Latvia ... Answer

Names are matched first, the leftmost and longest before others; the remaining text is split at white space
and loses its punctuation ("A." and " A" are the same token as "A").
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from study.cldr.benchmark import LETTERS
from study.cldr.instructions import DEMO_PER_SUBJECT, vocabulary

PAD, BOS, EOS, UNK = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
GLUED_LANGUAGES = frozenset({"am", "ja", "th", "zh"})
"""Their question templates write names without white space around them (Amharic: after a one-letter
preposition).
"""


def build_tokenizer(
    names: Iterable[str], texts: Iterable[str], *, glued_names: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """names, glued_names: one token each, glued ones also inside a word. texts: they give all other words.

    Token ids depend only on the contents of the arguments: special tokens, words in order of appearance, then
    names sorted. `tokenizer(text)` puts <s> in front and nothing at the end.
    """
    pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation("removed")])
    words = dict.fromkeys(SPECIAL_TOKENS)
    for text in texts:
        words.update(dict.fromkeys(word for word, _ in pre_tokenizer.pre_tokenize_str(text)))
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizer
    glued = set(glued_names)
    # single_word: a name must not match inside a longer word, such as "Mali" in "Maliyi"
    tokenizer.add_tokens(
        [AddedToken(name, single_word=True, normalized=False) for name in sorted(set(names) - glued)]
        + [AddedToken(name, single_word=False, normalized=False) for name in sorted(glued)]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK
    )


def cldr_tokenizer(
    languages: Iterable[str], *, per_subject: int | None = DEMO_PER_SUBJECT
) -> PreTrainedTokenizerFast:
    """A tokenizer that knows every word of the CLDR rows in these languages and English.

    per_subject: the cap with which the rows are made.
    """
    names: set[str] = set()
    glued: set[str] = set()
    texts = [f"Answer: {' '.join(LETTERS)}"]
    for language in sorted({*languages, "en"}):
        of_language, templates = vocabulary(language, per_subject=per_subject)
        (glued if language in GLUED_LANGUAGES else names).update(of_language)
        texts.extend(templates)
    return build_tokenizer(names, texts, glued_names=glued)
