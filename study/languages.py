"""The 49 languages of Global-MMLU and MMLU-ProX, one table: languages.csv beside this file.

Sources: the two benchmarks' papers and data cards; Joshi classes from Joshi et al. 2020 (0 to 5, 5 the
richest). `bucket` follows the Joshi class alone: low 0-2, mid 3, high 4-5. Global-MMLU's own Table 5 differs
for Korean, so it is kept in a column of its own. Serbian is Cyrillic in Global-MMLU and Latin in MMLU-ProX;
the table says Cyrillic.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.errors import UserError, nearest

BUCKETS = ("low", "mid", "high")
TABLE_FILE = Path(__file__).with_name("languages.csv")


@dataclass(frozen=True)
class Language:
    code: str
    """As the benchmarks write it: ISO 639-1, or 639-2 where there is none (fil)."""
    name: str
    iso3: str
    script: str
    family: str
    """Family/branch."""
    joshi: int
    bucket: str
    """Resource bucket: low | mid | high."""
    bucket_gmmlu_table5: str
    """Global-MMLU's own bucket; empty for a language it lacks."""
    translation: str
    """Of Global-MMLU: orig, H (human), B (both), M (machine); empty for a language it lacks."""
    in_global_mmlu: bool
    in_mmlu_prox: bool


def _load() -> dict[str, Language]:
    with TABLE_FILE.open(encoding="utf-8", newline="") as file:
        return {
            row["code"]: Language(
                code=row["code"],
                name=row["name"],
                iso3=row["iso3"],
                script=row["script"],
                family=row["family"],
                joshi=int(row["joshi"]),
                bucket=row["bucket"],
                bucket_gmmlu_table5=row["bucket_gmmlu_table5"],
                translation=row["translation"],
                in_global_mmlu=row["in_global_mmlu"] == "1",
                in_mmlu_prox=row["in_mmlu_prox"] == "1",
            )
            for row in csv.DictReader(file)
        }


LANGUAGES: dict[str, Language] = _load()
"""Code -> language, sorted by code."""


def resolve(selector: Sequence[str], available: Sequence[str]) -> list[str]:
    """The codes that a selector names among those available, in the order of `available`, each once.

    A selector lists codes, bucket names, scripts (`Cyrillic`), families or their branches (`Indo-European`,
    `Bantu`), or "all"; the case of scripts and families does not matter. A code that is not in the table can
    still be chosen, by itself or by "all", when it is available: a benchmark of one's own may have it.
    `Arabic`, like a few other names, is a script, and so more than one language: `ar` is the language.
    Raises UserError, with the nearest name, for a word that names no available language.
    """
    chosen: set[str] = set()
    for word in selector:
        found = _named(word, available)
        if not found:
            raise _not_found(word, available)
        chosen |= found
    if not chosen:
        remedy = "list codes, buckets, scripts, families, or all"
        raise UserError("no language is chosen", where="languages", remedy=remedy)
    return [code for code in dict.fromkeys(available) if code in chosen]


def _named(word: str, available: Sequence[str]) -> set[str]:
    if word == "all":
        return set(available)
    if word in available:
        return {word}
    return {code for code in available if code in LANGUAGES and word.lower() in _groups(LANGUAGES[code])}


def _groups(language: Language) -> set[str]:
    """What a language can be chosen by beside its code, in lower case."""
    return {language.bucket, language.script.lower(), *language.family.lower().split("/")}


def _not_found(word: str, available: Sequence[str]) -> UserError:
    if not available:
        return UserError("there are no languages to choose from", where="languages")
    remedy = "available: " + ", ".join(sorted(set(available)))
    if word.lower() in {group for language in LANGUAGES.values() for group in _groups(language)}:
        of = "bucket " if word.lower() in BUCKETS else ""
        return UserError(f"no language of {of}'{word}' is available", where="languages", remedy=remedy)
    if word in LANGUAGES:
        what = f"'{word}' ({LANGUAGES[word].name}) is not available here"
        return UserError(what, where="languages", remedy=remedy)
    return UserError(f"unknown language '{word}'", where="languages", remedy=_nearest(word, available))


def _nearest(word: str, available: Sequence[str]) -> str:
    """The remedy for an unknown word: the selector whose name, or whose language's name, is closest."""
    known = [LANGUAGES[code] for code in available if code in LANGUAGES]
    selectors = {code.lower(): code for code in ("all", *available)}
    for language in known:
        for group in (language.bucket, language.script, *language.family.split("/")):
            selectors.setdefault(group.lower(), group)
    names = {language.name.lower(): language.code for language in known}
    both = names | selectors
    close = difflib.get_close_matches(word.lower(), both, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{both[close[0]]}'?"
    return nearest(word, [*available, *BUCKETS, "all"]) + ", or a script or family of theirs"
