"""The 49 languages of Global-MMLU and MMLU-ProX, one table: languages.csv beside this file.

Sources: the two benchmarks' papers and data cards; Joshi classes from Joshi et al. 2020 (0 to 5, 5 has the
most resources). `bucket` follows the Joshi class alone: low 0-2, mid 3, high 4-5. Global-MMLU's own Table 5
differs for Korean, so it has a separate column. Serbian is Cyrillic in Global-MMLU and Latin in MMLU-ProX;
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
    """The bucket in Global-MMLU's Table 5; empty for a language that Global-MMLU lacks."""
    translation: str
    """How Global-MMLU was translated: orig, H (human), B (both), M (machine); empty where it lacks it."""


def _load() -> dict[str, Language]:
    with TABLE_FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return {row["code"]: Language(joshi=int(row.pop("joshi")), **row) for row in rows}


LANGUAGES: dict[str, Language] = _load()
"""Code -> language, sorted by code."""


def _groups(language: Language) -> set[str]:
    """The words for groups that a language is in, in lower case."""
    return {language.bucket, language.script.lower(), *language.family.lower().split("/")}


def is_group(word: str) -> bool:
    """Whether a selector's word stands for several languages: `all`, a bucket, a script, or a family."""
    return word == "all" or any(word.lower() in _groups(language) for language in LANGUAGES.values())


def resolve(selector: Sequence[str], available: Sequence[str]) -> list[str]:
    """The codes that a selector names among those available, in the order of `available`, each once.

    A selector lists codes, bucket names, scripts (`Cyrillic`), families or their branches (`Indo-European`,
    `Bantu`), or "all"; the case of scripts and families does not matter. A code that is not in the table can
    still be chosen, alone or by "all", when it is available: a user's own benchmark may have it. A few
    names of languages are scripts, too, and mean all languages in that script: `Arabic`, unlike `ar`.
    Raises UserError, with the nearest name, for a word that names no available language.
    """
    chosen: set[str] = set()
    for word in selector:
        codes = _named(word, available)
        if not codes:
            raise _not_found(word, available)
        chosen |= codes
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


def _not_found(word: str, available: Sequence[str]) -> UserError:
    if not available:
        return UserError("there are no languages to choose from", where="languages")
    remedy = "available: " + ", ".join(sorted(set(available)))
    if is_group(word):
        kind = "bucket " if word.lower() in BUCKETS else ""
        return UserError(f"no language of {kind}'{word}' is available", where="languages", remedy=remedy)
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
    known_words = names | selectors
    close = difflib.get_close_matches(word.lower(), known_words, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{known_words[close[0]]}'?"
    return nearest(word, [*available, *BUCKETS, "all"]) + ", or one of their scripts or families"
