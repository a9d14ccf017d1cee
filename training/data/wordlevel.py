"""A word-level tokenizer in which a whole name ("South Africa", "德国") is one token, for the embedded demo.

With one token a name a 1M-parameter model can learn hundreds of facts in a minute; with sub-words it could
not. The result is an ordinary Hugging Face tokenizer folder: everything is stated in tokenizer.json.

    "<s>" In which country is this city Bucharest A Andorra B Latvia ... Answer

Text is split at white space, punctuation is dropped ("A." and " A" are the same token as "A"), and names are
found before that, the leftmost and longest first.
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
"""Question templates of these write a name without white space around it (Amharic: after a one-letter
preposition).
"""


def build_tokenizer(
    names: Iterable[str], texts: Iterable[str], *, glued_names: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """names, glued_names: one token each, the glued ones even inside a word. texts: their words are the rest.

    Token ids depend only on the arguments' contents: special tokens, then words in order of appearance, then
    names sorted. `tokenizer(text)` puts <s> in front and nothing at the end.
    """
    pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation("removed")])
    words = dict.fromkeys(SPECIAL_TOKENS)
    for text in texts:
        words.update(dict.fromkeys(word for word, _ in pre_tokenizer.pre_tokenize_str(text)))
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizer
    glued = set(glued_names)
    # single_word: a name must not be found inside a longer word, such as "Mali" in "Maliyi".
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
    """A tokenizer that knows every word of the CLDR rows, under this cap, of these languages and English."""
    names: set[str] = set()
    glued: set[str] = set()
    texts = [f"Answer: {' '.join(LETTERS)}"]
    for language in sorted({*languages, "en"}):
        of_language, templates = vocabulary(language, per_subject=per_subject)
        (glued if language in GLUED_LANGUAGES else names).update(of_language)
        texts.extend(templates)
    return build_tokenizer(names, texts, glued_names=glued)
