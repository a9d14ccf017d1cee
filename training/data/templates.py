"""Chat templates of exported models: the texts of `training.data.messages`, in Jinja."""

from __future__ import annotations

import json

from transformers import PreTrainedTokenizerBase

from training.data.encoding import leading_special_tokens

TULU = """\
{% for message in messages %}\
{{ '<|' + message['role'] + '|>\\n' + message['content'] }}\
{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\
{% if not (loop.last and message['role'] == 'assistant') %}{{ '\\n' }}{% endif %}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

PLAIN = """\
{% for message in messages %}\
{% if message['role'] == 'assistant' %}{{ '\\nAnswer: ' + message['content'] + eos_token }}\
{% elif loop.first or messages[loop.index0 - 1]['role'] == 'assistant' %}{{ message['content'] }}\
{% else %}{{ '\\n' + message['content'] }}{% endif %}\
{% endfor %}\
{% if add_generation_prompt %}{{ '\\nAnswer:' }}{% endif %}"""


def chat_template(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """How other programs prompt a model that was trained with one of `study.jobs.specs.TEMPLATES`.

    Programs that use a chat template add no special tokens to it, so it begins with what `tokenizer(text)`
    puts in front of a text.
    """
    if template == "tokenizer":
        return str(tokenizer.get_chat_template())
    begin = _beginning(tokenizer)
    return (f"{{{{ {json.dumps(begin)} }}}}" if begin else "") + {"tulu": TULU, "plain": PLAIN}[template]


def _beginning(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the tokens that `tokenizer(text)` puts in front of a text.

    Newer tokenizers made from SentencePiece begin a text with a space unless a special token precedes it: the
    template must then write the space.
    """
    ids = leading_special_tokens(tokenizer)
    begin = "".join(tokenizer.convert_ids_to_tokens(ids))
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    spaced = tokenizer(f"{begin} a", add_special_tokens=False)["input_ids"]
    close = tokenizer(f"{begin}a", add_special_tokens=False)["input_ids"]
    return f"{begin} " if spaced == ids + bare != close else begin
