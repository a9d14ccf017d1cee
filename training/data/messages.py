r"""Instruction rows as messages, and messages as text with the spans that the assistant says.

Special tokens that a row spells out ("</s>" in a question about tokenizers) become those tokens, in training
and at inference: Hugging Face templates do not escape them, and a template that did would show the model
other texts than every other program. The loss is on everything that the assistant says, those included.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from study.errors import JobError

logger = logging.getLogger(__name__)
ROLES = {"human": "user", "gpt": "assistant"}
"""OpenHermes' names of roles -> ours; other names are kept."""
TEMPLATE_DATE = "26 Jul 2024"
"""Takes the place of today's date in Llama's templates: texts must not depend on the day of tokenising."""


class Message(NamedTuple):
    role: str  # system | user | assistant
    content: str


class Rendered(NamedTuple):
    """A conversation as text. spans: (begin, end) in characters that the loss is computed on, in order."""

    text: str
    spans: list[tuple[int, int]]


Renderer: TypeAlias = Callable[[Sequence[Message], str], Rendered]
"""(messages, where they come from) -> text; errors begin with the latter."""


def messages_of(row: Any, where: str) -> list[Message]:
    """A row in the schema of Alpaca, Tulu-3 or OpenHermes as messages. Raises JobError for other columns."""
    if not isinstance(row, Mapping):
        raise JobError(f"{where}: not a mapping of columns to values")
    if isinstance(row.get("messages"), list):
        return [Message(_text(m, "role", where), _text(m, "content", where)) for m in row["messages"]]
    if isinstance(row.get("conversations"), list):
        turns = [(_text(m, "from", where), _text(m, "value", where)) for m in row["conversations"]]
        return [Message(ROLES.get(role, role), content) for role, content in turns]
    if "instruction" in row and "output" in row:
        prompt = _text(row, "instruction", where)
        if row.get("input"):
            prompt += "\n" + _text(row, "input", where)
        return [Message("user", prompt), Message("assistant", _text(row, "output", where))]
    raise JobError(
        f"{where}: columns {sorted(row)} are neither instruction/input/output, messages nor conversations"
    )


def _text(row: Any, column: str, where: str) -> str:
    value = row.get(column) if isinstance(row, Mapping) else None
    if not isinstance(value, str):
        raise JobError(f"{where}: '{column}' is {value!r}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can contain half of a surrogate pair
        half = f"U+{ord(value[error.start]):X} at character {error.start + 1}"
        raise JobError(f"{where}: '{column}' has half a character ({half}); correct or remove it") from None
    return value


def renderer(template: str, tokenizer: PreTrainedTokenizerBase) -> Renderer:
    r"""How a template, one of `study.jobs.specs.TEMPLATES`, turns messages into text.

    plain: `{user}\nAnswer: {assistant}{eos}`, the prompt of the `letter` protocol; a system message is a line
        before the user's.
    tulu: `<|role|>\n{content}\n`, the assistant's ends with eos (open-instruct's template).
    tokenizer: the tokenizer's own chat template.

    An empty answer is missing, not short: neither it nor its end of turn is a target.
    Raises JobError when the tokenizer lacks what the template needs.
    """
    if template == "tokenizer":
        return _chat_renderer(tokenizer)
    eos = tokenizer.eos_token or ""
    if not eos:
        logger.warning(
            "%s: the tokenizer has no end-of-sequence token; the model does not learn where an answer ends",
            tokenizer.name_or_path,
        )
    if template == "plain":
        return partial(_plain, eos)
    assert template == "tulu"
    return partial(_tulu, eos)


def _plain(eos: str, messages: Sequence[Message], where: str) -> Rendered:
    text, spans, after_prompt = "", [], False
    for message in messages:
        if message.role == "assistant":
            text += "\nAnswer:"
            begin = len(text)
            text += f" {message.content}{eos}"
            if message.content.strip():
                spans.append((begin, len(text)))
        else:
            text += "\n" + message.content if after_prompt else message.content
        after_prompt = message.role != "assistant"
    return Rendered(text, spans)


def _tulu(eos: str, messages: Sequence[Message], where: str) -> Rendered:
    text, spans = "", []
    for message in messages:
        text += f"<|{message.role}|>\n"
        begin = len(text)
        text += message.content
        if message.role == "assistant":
            text += eos
            if message.content.strip():
                spans.append((begin, len(text)))
        text += "\n"
    return Rendered(text, spans)


def _chat_renderer(tokenizer: PreTrainedTokenizerBase) -> Renderer:
    name = tokenizer.name_or_path
    try:
        template = tokenizer.get_chat_template()
    except ValueError:  # no template, or several and no default
        raise JobError(
            f"{name}: the tokenizer has no chat template (or several and no default); "
            "write template: tulu or plain"
        ) from None
    if "strftime_now" in template and "date_string" not in template:
        raise JobError(
            f"{name}: the tokenizer's chat template writes today's date, so that every day would train on "
            "other text; fix the date in the template, or write template: tulu"
        )
    specials = tuple(token.content for token in tokenizer.added_tokens_decoder.values())
    chat = _ChatTemplate(
        name, template, {**tokenizer.special_tokens_map, "date_string": TEMPLATE_DATE}, specials
    )
    # the expression by which transformers decides
    return chat.by_marks if re.search(r"\{\%-?\s*generation\s*-?\%\}", template) else chat.by_prefixes


class _ChatTemplate(NamedTuple):
    """A tokenizer's chat template. name: of the tokenizer. specials: texts of its special tokens."""

    name: str
    template: str
    variables: Mapping[str, Any]
    specials: tuple[str, ...]

    def by_marks(self, messages: Sequence[Message], where: str) -> Rendered:
        """The spans that the template marks with {% generation %}."""
        text, spans = self.render(messages, where, marks=True)
        answers = [message.content for message in messages if message.role == "assistant"]
        if len(spans) != len(answers):
            raise JobError(
                f"{where}: the chat template of {self.name} marks {len(spans)} generations in a conversation "
                f"with {len(answers)} answers; write template: tulu"
            )
        return Rendered(text, [span for span, answer in zip(spans, answers, strict=True) if answer.strip()])

    def by_prefixes(self, messages: Sequence[Message], where: str) -> Rendered:
        """The span of an answer is what it adds to the prompt that the model is given for it."""
        text, _ = self.render(messages, where)
        spans = []
        for i, message in enumerate(messages):
            if message.role != "assistant" or not message.content.strip():
                continue
            prompt, _ = self.render(messages[:i], where, answer_next=True)
            answered, _ = self.render(messages[: i + 1], where)
            if not (answered.startswith(prompt) and text.startswith(answered)):
                raise JobError(
                    f"{where}: the chat template of {self.name} writes a turn differently once others "
                    "follow, so that no prompt is the beginning of the text; write template: tulu"
                )
            # the new line after <|im_end|> belongs to the template: it is not generated
            bare = answered.rstrip()
            spans.append((len(prompt), len(bare) if bare.endswith(self.specials) else len(answered)))
        return Rendered(text, spans)

    def render(
        self, messages: Sequence[Message], where: str, *, answer_next: bool = False, marks: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text and the spans of its marks; answer_next: up to where the next answer begins."""
        try:
            rendered: Any = render_jinja_template(  # annotated as str, but it returns a pair
                conversations=[[message._asdict() for message in messages]],
                chat_template=self.template,
                add_generation_prompt=answer_next,
                return_assistant_tokens_mask=marks,
                **self.variables,
            )
        except TemplateError as error:  # also raised by templates themselves, on a system message for example
            raise JobError(
                f"{where}: the chat template of {self.name} refuses the conversation "
                f"({' '.join(str(error).split())}); write template: tulu"
            ) from None
        (text,), spans = rendered
        return text, spans[0] if spans else []
