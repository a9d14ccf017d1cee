"""training/data/messages.py: four schemas as messages, and what the loss is taken on in their texts."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from study.errors import JobError
from tests.training.toys import FIXTURES, fixture, toy_tokenizer
from training.data.messages import Message, Rendered, messages_of, renderer
from training.data.wordlevel import build_tokenizer

TALK = [
    Message("system", "Be brief"),
    Message("user", "Hello"),
    Message("assistant", "Hi"),
    Message("user", "Bye"),
    Message("assistant", "Ciao"),
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}A:\n"
    "{% generation %}{{ m['content'] }}{{ eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}U: {{ m['content'] }}\n{% endif %}{% endfor %}"
)


def targets(rendered: Rendered) -> list[str]:
    return [rendered.text[begin:end] for begin, end in rendered.spans]


def rendered(template: str, messages: list[Message]) -> Rendered:
    return renderer(template, toy_tokenizer("byte_level"))(messages, "here")


def by_chat_template(chat_template: str | None, messages: list[Message]) -> Rendered:
    tokenizer = toy_tokenizer("byte_level", chat_template=chat_template)
    return renderer("tokenizer", tokenizer)(messages, "rows.jsonl, line 3")


# schemas


COLUMNS = {
    "alpaca": {"instruction", "input", "output", "text"},
    "tulu3": {"id", "messages", "source"},
    "openhermes": {
        "custom_instruction", "topic", "model_name", "model", "skip_prompt_formatting", "category",
        "conversations", "views", "language", "id", "title", "idx", "hash", "avatarUrl", "system_prompt",
        "source",
    },
    "tulu_stanford_alpaca": {"dataset", "id", "messages"},
}  # fmt: skip
SHAPES = {  # roles of each row, and how many rows
    "alpaca": {"ua": 8},
    "tulu3": {"ua": 5, "uauau": 1, "sua": 1, "uaua": 1},
    "openhermes": {"ua": 4, "sua": 2, "uaua": 1},
    "tulu_stanford_alpaca": {"ua": 6},
}


@pytest.mark.parametrize("name", FIXTURES)
def test_the_fixtures_have_the_columns_of_their_datasets(name: str) -> None:
    rows = fixture(name)
    assert all(set(row) == COLUMNS[name] for row in rows)
    shapes = ("".join(message.role[0] for message in messages_of(row, name)) for row in rows)
    assert Counter(shapes) == SHAPES[name]


def test_schemas_become_messages() -> None:
    alpaca, tulu, hermes, stanford = (fixture(name) for name in FIXTURES)
    assert messages_of(alpaca[0], "x") == [
        Message("user", "Name the colour you get when you mix the two paints.\nblue and yellow"),
        Message("assistant", "Green."),
    ]
    assert messages_of(alpaca[1], "x") == [  # no input, no empty line
        Message("user", "Write one sentence about a lighthouse."),
        Message("assistant", "The lighthouse blinked twice and went back to counting ships."),
    ]
    assert messages_of(tulu[3], "x") == [
        Message("system", "You answer in rhymes."),
        Message("user", "How is the weather?"),
        Message("assistant", "The sky is grey, it rains all day."),
    ]
    assert messages_of(hermes[1], "x") == [
        Message("system", "You are a gardener of few words."),
        Message("user", "When do I prune my roses?"),
        Message("assistant", "Late winter."),
    ]
    assert messages_of(stanford[0], "x") == [
        Message("user", "Give a synonym of ‘quick’."),
        Message("assistant", "Fast."),
    ]
    with pytest.raises(JobError, match=r"file, row 3: columns \['prompt'\] are neither"):
        messages_of({"prompt": "x"}, "file, row 3")


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "output": None},  # would be trained on as the text "None"
        {"instruction": 3, "output": "x"},
        {"messages": [{"role": "user"}]},
        {"messages": ["hello"]},
        {"conversations": [{"from": "human", "value": None}]},
    ],
)
def test_a_row_without_text_is_refused_by_name(row: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"^file, row 3: '\w+' is .*, not a text$"):
        messages_of(row, "file, row 3")


# templates of our own


def test_plain_is_the_prompt_of_the_letter_protocol() -> None:
    from evaluation.prompts import continuation, letter_prompt

    row = {"instruction": "Which?", "input": "A. Mali\nB. Peru", "output": "B"}
    got = rendered("plain", messages_of(row, "x"))
    assert got.text == "Which?\nA. Mali\nB. Peru\nAnswer: B</s>"
    assert targets(got) == [" B</s>"]
    assert got.text == letter_prompt("Which?", ["Mali", "Peru"]) + continuation("B") + "</s>"


def test_plain_with_a_system_message_and_turns() -> None:
    got = rendered("plain", TALK)
    assert got.text == "Be brief\nHello\nAnswer: Hi</s>Bye\nAnswer: Ciao</s>"
    assert targets(got) == [" Hi</s>", " Ciao</s>"]


def test_tulu_takes_the_loss_on_every_answer_and_its_end() -> None:
    got = rendered("tulu", TALK)
    assert got.text == (
        "<|system|>\nBe brief\n<|user|>\nHello\n<|assistant|>\nHi</s>\n"
        "<|user|>\nBye\n<|assistant|>\nCiao</s>\n"
    )
    assert targets(got) == ["Hi</s>", "Ciao</s>"]


@pytest.mark.parametrize("template", ["plain", "tulu"])
def test_answers_of_the_fixtures(template: str) -> None:
    """Hand-copied: what the model is to say, row by row; nothing where the answer is empty."""
    space = " " if template == "plain" else ""
    want = {
        "tulu3": [
            ["A fruit."],
            ["Mji mkuu wa Kenya ni Nairobi."],
            ["Hello! What shall we do?", "One, two, three."],
            ["The sky is grey, it rains all day."],
            ["भारत का राष्ट्रीय पक्षी मोर है।"],
            ["```python\nprint([n * n for n in range(5)])\n```"],
            [],
            ["Yes, I am here."],
        ],
        "openhermes": [
            ["At 11:05."],
            ["Late winter."],
            ["Use a slice:\n\n```python\nys = xs[::-1]\n```"],
            ["3x² + 2."],
            ["Crane.", "Bass."],
            ["Octopuses; octopodes, if you insist."],
            [],
        ],
    }
    for name, answers in want.items():
        got = [targets(rendered(template, messages_of(row, "x"))) for row in fixture(name)]
        assert got == [[f"{space}{answer}</s>" for answer in row] for row in answers]


def test_a_tokenizer_without_an_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = build_tokenizer([], ["Hello"])
    tokenizer.eos_token = None
    tokenizer.name_or_path = "org/endless"
    assert renderer("plain", tokenizer)(TALK[1:3], "x").text == "Hello\nAnswer: Hi"
    assert "org/endless: the tokenizer has no end-of-sequence token" in caplog.text


def test_half_a_character_is_told_where_it_is() -> None:
    r"""JSON can spell it: "\\ud83d" alone. No tokenizer takes it, and none says where it was."""
    row = json.loads('{"instruction": "ab\\ud83d", "output": "c"}')
    sentence = r"^x, line 7: 'instruction' has half a character \(U\+D83D at character 3\)"
    with pytest.raises(JobError, match=sentence):
        messages_of(row, "x, line 7")
    whole = json.loads('{"instruction": "ab\\ud83d\\ude00", "output": "c"}')
    assert messages_of(whole, "x")[0].content == "ab\U0001f600"


# the tokenizer's own template


def test_answers_are_what_they_add_to_the_prompt() -> None:
    got = by_chat_template(CHATML, TALK)
    assert got.text == (
        "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\nCiao<|im_end|>\n"
    )
    assert targets(got) == ["Hi<|im_end|>", "Ciao<|im_end|>"]  # without the new line behind it
    # without a special token at the end the new line is the end of the turn
    bare = CHATML.replace("<|im_start|>", "@").replace("<|im_end|>", "")
    assert targets(by_chat_template(bare, TALK)) == ["Hi\n", "Ciao\n"]


def test_a_template_without_a_generation_prompt() -> None:
    llama_2 = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    got = by_chat_template(llama_2, TALK[1:])
    assert got.text == "<s>[INST] Hello [/INST] Hi</s>[INST] Bye [/INST] Ciao</s>"
    assert targets(got) == [" Hi</s>", " Ciao</s>"]


def test_marks_of_the_template_are_used() -> None:
    got = by_chat_template(MARKED, TALK[1:])
    assert got.text == "<s>U: Hello\nA:\nHi</s>\nU: Bye\nA:\nCiao</s>\n"
    assert targets(got) == ["Hi</s>", "Ciao</s>"]


@pytest.mark.parametrize("chat_template", [CHATML, MARKED])
def test_an_empty_answer_is_no_target(chat_template: str) -> None:
    talk = [Message("user", "Hello?"), Message("assistant", " "), Message("user", "Hello!"), TALK[2]]
    assert [text[:2] for text in targets(by_chat_template(chat_template, talk))] == ["Hi"]


def test_the_day_changes_no_text() -> None:
    dated = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
        "Today: {{ date_string }}\n" + CHATML
    )
    assert by_chat_template(dated, TALK).text.startswith("Today: 26 Jul 2024\n<|im_start|>")
    with pytest.raises(JobError, match=r"^toy-byte_level: .* writes today's date.*write template: tulu$"):
        by_chat_template("{{ strftime_now('%d') }}" + CHATML, TALK)


@pytest.mark.parametrize(
    ("chat_template", "complaint"),
    [
        (None, r"^toy-byte_level: the tokenizer has no chat template"),
        # thoughts of earlier turns are dropped: no prompt is the beginning of the whole
        (
            CHATML.replace("{{ m['content'] }}", "{{ m['content'] if loop.last else '...' }}"),
            r"^rows\.jsonl, line 3: .* writes a turn differently once others follow",
        ),
        (
            CHATML.replace("<|im_end|>", "{{ '!' if loop.last and loop.index0 % 2 == 0 }}<|im_end|>"),
            r"^rows\.jsonl, line 3: .* writes a turn differently once others follow",
        ),
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system\nrole') }}{% endif %}",
            r"^rows\.jsonl, line 3: .* refuses the conversation \(No system role\)",
        ),
        (
            "{% generation %}{{ messages[2]['content'] }}{% endgeneration %}",
            r"^rows\.jsonl, line 3: .* marks 1 generations in a conversation with 2 answers",
        ),
    ],
)
def test_templates_that_are_of_no_use_say_why(chat_template: str | None, complaint: str) -> None:
    with pytest.raises(JobError, match=complaint):
        by_chat_template(chat_template, TALK)


def test_the_marks_are_those_of_transformers() -> None:
    """Against the library's own mask of tokens."""
    from training.data.encoding import encoder

    tokenizer: PreTrainedTokenizerBase = toy_tokenizer("byte_level", chat_template=MARKED)
    for row in fixture("tulu3"):
        messages = [m for m in messages_of(row, "x") if m.content.strip()]
        if not any(m.role == "assistant" for m in messages):
            continue
        theirs: Any = tokenizer.apply_chat_template(
            [m._asdict() for m in messages], return_dict=True, return_assistant_tokens_mask=True
        )
        (ours,) = encoder(tokenizer, 10_000)([renderer("tokenizer", tokenizer)(messages, "x")])
        assert ours is not None
        end = len(ours.ids)
        assert ours.ids.tolist() == theirs["input_ids"][:end]
        assert ours.is_target.tolist() == [bool(m) for m in theirs["assistant_masks"][:end]]
        assert not any(theirs["assistant_masks"][end:])
