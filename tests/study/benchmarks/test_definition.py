"""Benchmark files: a mistake is one sentence with its place; keys that are left out have defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.benchmarks import definition
from study.benchmarks.definition import columns_of, definition_of, definitions, schemas
from study.errors import UserError

COLUMNS = "{id: [i], question: q, options: [a, b, c], answer: z, answer_as: index"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(definition, "FOLDER", tmp_path)
    return tmp_path


def test_a_file_of_few_lines(folder: Path) -> None:
    (folder / "ours.yaml").write_text(f"hub: org/ours\ncolumns: {COLUMNS}}}\n")
    (folder / "lite.yaml").write_text("hub: org/lite\nschema: ours\nconfigs: {sw: swh_Latn, en: eng_Latn}\n")
    assert list(definitions()) == ["lite", "ours"]
    ours, lite = definition_of("ours"), definition_of("lite")
    assert (ours.codes, ours.shot_split, ours.sizes, ours.tokens_per_item) == ([], None, {}, None)
    assert lite.codes == ["en", "sw"]
    assert list(schemas()) == ["ours"]
    columns = columns_of("ours")
    assert (columns.min_options, columns.max_options, columns.skip_gaps) == (2, 3, False)
    assert (columns.subject, columns.passage) == (None, None)
    with pytest.raises(UserError, match=r"there is no benchmark 'our'; did you mean 'ours'\?"):
        definition_of("our")
    with pytest.raises(UserError, match="schema: 'lite' is unknown; valid: ours"):
        columns_of("lite")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hub: o/r", "new.yaml: columns: give one of columns and schema"),
        (f"hub: o/r\nschema: x\ncolumns: {COLUMNS}}}", "new.yaml: columns: give one of columns and schema"),
        (f"columns: {COLUMNS}}}", "new.yaml: hub: give one of hub and embedded"),
        (f"hub: o/r\nembedded: true\ncolumns: {COLUMNS}}}", "new.yaml: hub: give one of hub and embedded"),
        ("hub: o/r\nlanguagse: [en]", "new.yaml: languagse: unknown key; did you mean 'languages'?"),
        (
            f"hub: o/r\ncolumns: {COLUMNS}, pasage: p}}",
            "new.yaml: columns.pasage: unknown key; did you mean 'passage'?",
        ),
        ("hub: o/r\ncolumns: {id: [i]}", "new.yaml: columns.answer: is missing; give it a value"),
        (
            f"hub: o/r\ncolumns: {COLUMNS.replace('index', 'letr')}}}",
            "new.yaml: columns.answer_as: 'letr' is unknown; did you mean 'letter'?",
        ),
        (
            f"hub: o/r\ncolumns: {COLUMNS}, min_options: 4}}",
            "new.yaml: columns.min_options: out of range; give 2 to 10, and not more than there are columns",
        ),
        (
            f"hub: o/r\ncolumns: {COLUMNS.replace('[i]', '[]')}}}",
            "new.yaml: columns.id: out of range; list at least one column",
        ),
        (
            f"hub: o/r\ncolumns: {COLUMNS.replace('[a, b, c]', '[]')}}}",
            "new.yaml: columns.options: out of range; list a column per option, or one that holds a list",
        ),
        ("hub: o/r\nschema: nwe", "new.yaml: schema: 'nwe' is unknown; there are none"),
        (
            "hub: o/r\nschema: x\nlanguages: [no]",
            "new.yaml: languages: 'False' is not a language code; put it in quotes",
        ),
        (
            "hub: o/r\nschema: x\nlanguages: [en]\nconfigs: {sw: swh}",
            "new.yaml: configs: 'sw' is not among the languages; add it",
        ),
        ("hub: [", "new.yaml, line 2: not valid YAML ("),
        ("hub: o/r\nschema: x\nsizes: {test: many}", "new.yaml: sizes.test: wrong type or value ("),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(folder: Path, text: str, sentence: str) -> None:
    (folder / "new.yaml").write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        definitions()
    said = str(caught.value)
    assert said.startswith(sentence) if sentence.endswith("(") else said == sentence
