"""Names of countries, currencies, languages, cities, months and days in a language: CLDR through Babel."""

import pickle
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from babel import Locale, localedata

CONTINENT_CODES = ("002", "019", "142", "150", "009")

CONTINENT_NAMES_ABSENT_FROM_CLDR = {
    "mg": ("Afrika", "Amerika", "Azia", "Eoropa", "Oseania"),
    "sn": ("Afrika", "Amerika", "Asia", "Europe", "Oceania"),
    "ny": ("Africa", "America", "Asia", "Europe", "Oceania"),
}
"""Written by us, in the order of CONTINENT_CODES."""


class Name(NamedTuple):
    """A name, and where it comes from.

    cldr    the language's own data
    root    CLDR's rule for cities: the last part of the zone id
    manual  CONTINENT_NAMES_ABSENT_FROM_CLDR
    en      the English name, because the language's own data have none
    """

    text: str
    source: str


class Names:
    """Names in one language. Kinds: territory, currency, language, continent, city, month, day."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._locale = Locale.parse(language)
        self._english = Locale.parse("en")
        self._calendar = {
            "month": _wide_names(language, "months", 12),
            "day": _wide_names(language, "days", 7),
        }

    def get(self, kind: str, code: str) -> Name:
        """The name of a code; its text is empty where neither this language nor English has one."""
        if kind in ("month", "day"):
            return Name(self._calendar[kind][int(code)], "cldr")
        if kind == "city":
            return self._city(code)
        if kind == "continent" and self.language in CONTINENT_NAMES_ABSENT_FROM_CLDR:
            return Name(
                CONTINENT_NAMES_ABSENT_FROM_CLDR[self.language][CONTINENT_CODES.index(code)], "manual"
            )
        table = {
            "territory": "territories",
            "continent": "territories",
            "currency": "currencies",
            "language": "languages",
        }
        own: Mapping[str, str] = getattr(self._locale, table[kind])
        english: Mapping[str, str] = getattr(self._english, table[kind])
        text, source = (own[code], "cldr") if code in own else (english.get(code, ""), "en")
        if kind == "currency":
            text = text[:1].upper() + text[1:]  # CLDR writes currencies for the middle of a sentence
        return Name(text, source)

    def _city(self, zone: str) -> Name:
        own = self._locale.time_zones.get(zone, {}).get("city")
        if own:
            return Name(str(own), "cldr")
        english = self._english.time_zones.get(zone, {}).get("city")
        return Name(str(english or zone.split("/")[-1].replace("_", " ")), "root")


def _wide_names(language: str, field: str, count: int) -> Mapping[int, str]:
    """Full month names (keys 1..12) or day names (keys 0..6, Monday first), stand-alone form preferred.

    Two traps. `Locale.months`: Babel 2.18 resolves root's aliases into a dict that all locales share, so the
    stand-alone names of one locale leak into another, depending on which was loaded first; the unmerged data
    has no such leak. `localedata.load(language, merge_inherited=False)`: Babel caches what it returns as the
    locale's data for all later calls.
    """
    with open(localedata.resolve_locale_filename(language), "rb") as stream:
        raw: Mapping[str, Any] = pickle.load(stream)[field]  # a file of the installed Babel
    for form in ("stand-alone", "format"):
        names = raw.get(form, {}).get("wide")
        if isinstance(names, Mapping) and len(names) == count:  # not so for an alias to another form
            return {int(key): str(name) for key, name in names.items()}
    raise LookupError(f"CLDR has no full {field} names for {language}")


@cache
def names_in(language: str) -> Names:
    return Names(language)


def letters_of(name: str) -> str:
    """A name in lower case without accents, spaces and punctuation, to see whether one contains another."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    # vowel signs of Indic scripts are marks, too, but have no combining class
    return "".join(
        c for c in decomposed if not unicodedata.combining(c) and unicodedata.category(c)[0] in "LMN"
    )
