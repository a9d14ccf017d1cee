"""Facts about countries, cities, months and days. Source: CLDR through Babel.

A `Fact` is language-independent: it holds codes (ISO 3166, ISO 4217, CLDR zone ids), never names. Everything
here is a pure function of the installed Babel, and of what doubtful.tsv leaves out.
"""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from babel import Locale
from babel.core import get_global

from study.cldr.names import CONTINENT_CODES, letters_of

CONTINENTS = {
    "Africa": "002",
    "America": "019",
    "Asia": "142",
    "Europe": "150",
    "Pacific": "009",
    "Australia": "009",
}
"""First segment of a time-zone id -> UN M49 code of the continent, which is how CLDR names continents."""

ON_SEVERAL_CONTINENTS = frozenset("RU TR CY GE AM AZ KZ EG US CL EC ES PT FR NL YE ID TL".split())
"""States on several continents, or whose continent is disputed: no question asks for it."""

SKIPPED_TERRITORIES = frozenset(
    "AC AI AQ AS AW AX BL BM BQ BV CC CK CP CQ CW CX DG EA EH FK FO GF GG GI GL GP GS GU HK HM IC IM IO JE "
    "KY MF MO MP MQ MS NC NF NU PF PM PN PR PS RE SH SJ SX TA TC TF TK TW UM VG VI WF XK YT ZZ".split()
)
"""Uninhabited, disputed or dependent territories, for which "country" is wrong or contested."""

DOUBTFUL_FILE = Path(__file__).with_name("doubtful.tsv")
"""Facts that are left out although no rule here can recognise them, each with the reason."""

MAX_QUESTIONS_PER_CURRENCY = 6
MAX_QUESTIONS_PER_LANGUAGE = 8
MAX_CITIES_PER_TERRITORY = 2

LEAST_COVERED = ("mg", "sn")
"""What CLDR names in both of these it names in all other languages of the benchmark except ny and wo."""


@dataclass(frozen=True)
class Fact:
    """One question, as codes. `template` is a column of templates.tsv, kinds are those of `Names.get`."""

    subject: str
    template: str
    thing_kind: str
    thing: str
    """Code of what the question is about: a territory, a time zone (for its city), a month or a day."""
    answer_kind: str
    answer: str
    distractors: tuple[str, ...]
    """Codes of wrong answers, sorted: from the same continent where there are enough, never right as well."""
    in_benchmark: bool
    """False where the answer has no name in many languages: then only English instructions ask about it."""

    @property
    def fact_id(self) -> str:
        """Stable and language-independent: cldr/currency/JP, cldr/calendar/month_next/1."""
        middle = f"calendar/{self.thing_kind}_{self.template}" if self.subject == "calendar" else self.subject
        return f"cldr/{middle}/{self.thing}"


def stable_hash(*parts: object) -> int:
    """48 bits that do not depend on PYTHONHASHSEED, for seeds and for orderings that look random."""
    return int(hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:12], 16)


@cache
def doubtful() -> dict[str, str]:
    """Fact id -> why it is left out."""
    with DOUBTFUL_FILE.open(encoding="utf-8", newline="") as file:
        return {row["fact"]: row["reason"] for row in csv.DictReader(file, delimiter="\t")}


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact that is not doubtful, in an order that looks random and never changes."""
    facts = (fact for fact in (*_country_facts(), *_calendar_facts()) if fact.fact_id not in doubtful())
    kept, per_language = [], Counter[str]()
    for fact in sorted(facts, key=lambda fact: stable_hash(fact.fact_id)):
        # English, French, Spanish and Arabic are official in so many countries that they would dominate
        if fact.subject == "language":
            per_language[fact.answer] += 1
            if per_language[fact.answer] > MAX_QUESTIONS_PER_LANGUAGE:
                continue
        kept.append(fact)
    return tuple(kept)


@dataclass(frozen=True)
class _World:
    """What CLDR says about each territory, and the codes that have names in the least covered languages."""

    zones: Mapping[str, Sequence[str]]
    continent: Mapping[str, str]
    """Only territories whose zones all lie on one continent."""
    currencies: Mapping[str, Sequence[str]]
    """Legal tender today."""
    languages: Mapping[str, Mapping[str, Mapping[str, Any]]]
    named_territories: frozenset[str]
    named_currencies: frozenset[str]
    named_languages: frozenset[str]

    def official(self, territory: str) -> list[str]:
        spoken = self.languages.get(territory, {}).items()
        return [
            code for code, about in spoken if about["official_status"] in ("official", "de_facto_official")
        ]

    def status(self, territory: str, language: str) -> str | None:
        status: str | None = self.languages[territory][language]["official_status"]
        return status

    def neighbours(self, territory: str) -> list[str]:
        """Territories on the same continent, itself included; without a continent, all others without one."""
        return [other for other in self.zones if self.continent.get(other) == self.continent.get(territory)]


def _world() -> _World:
    english = Locale.parse("en").territories
    time_zones = get_global("territory_zones")
    zones = {
        code: [str(zone) for zone in time_zones[code]]
        for code in sorted(english)
        if len(code) == 2 and code.isalpha() and code in time_zones and code not in SKIPPED_TERRITORIES
    }
    continent = {}
    for code, ids in zones.items():
        continents = {CONTINENTS.get(zone.split("/")[0]) for zone in ids}
        if len(continents) == 1 and (only := continents.pop()):
            continent[code] = only
    history = get_global("territory_currencies")
    currencies = {
        code: [
            str(currency)
            for currency, _, last_day, is_tender in history.get(code, [])
            if last_day is None and is_tender
        ]
        for code in zones
    }
    first, second = (Locale.parse(language) for language in LEAST_COVERED)
    return _World(
        zones=zones,
        continent=continent,
        currencies=currencies,
        languages=get_global("territory_languages"),
        named_territories=frozenset(set(first.territories) & set(second.territories)),
        named_currencies=frozenset(set(first.currencies) & set(second.currencies)),
        named_languages=frozenset(set(first.languages) & set(second.languages)),
    )


def _country_facts() -> Iterable[Fact]:
    world = _world()
    per_currency = Counter[str]()
    for territory in sorted(world.zones.keys() & world.named_territories, key=stable_hash):
        if len(world.currencies[territory]) == 1:
            currency = world.currencies[territory][0]
            per_currency[currency] += 1
            if per_currency[currency] <= MAX_QUESTIONS_PER_CURRENCY:
                yield _currency_fact(world, territory)
        official = world.official(territory)
        # de facto: by custom, without a law that says so
        if len(official) == 1 and world.status(territory, official[0]) == "official":
            yield _language_fact(world, territory)
        if territory in world.continent and territory not in ON_SEVERAL_CONTINENTS:
            continent = world.continent[territory]
            others = tuple(code for code in CONTINENT_CODES if code != continent)
            yield Fact("continent", "continent", "territory", territory, "continent", continent, others, True)
        yield from _city_facts(world, territory)


def _currency_fact(world: _World, territory: str) -> Fact:
    answer = world.currencies[territory][0]
    near = {
        world.currencies[other][0]
        for other in world.neighbours(territory)
        if len(world.currencies[other]) == 1
    }
    anywhere = {codes[0] for codes in world.currencies.values() if codes}
    named = world.named_currencies
    wrong = _wrong(near & named, anywhere & named, {answer})
    return Fact("currency", "currency", "territory", territory, "currency", answer, wrong, answer in named)


def _language_fact(world: _World, territory: str) -> Fact:
    (answer,) = world.official(territory)
    also_right = {  # official in some region, or spoken by many: not clearly wrong
        code
        for code, about in world.languages[territory].items()
        if about["official_status"] or about["population_percent"] > 3
    }
    near: set[str] = set()
    if territory in world.continent:
        near = {code for other in world.neighbours(territory) for code in world.official(other)}
    named = world.named_languages
    wrong = _wrong(near & named, named, also_right)
    return Fact("language", "language", "territory", territory, "language", answer, wrong, answer in named)


def _wrong(near: Set[str], anywhere: Set[str], right: Set[str]) -> tuple[str, ...]:
    """Wrong answers, sorted: those nearby if there are three, else from anywhere."""
    return tuple(sorted(near - right if len(near - right) >= 3 else anywhere - right))


def _city_facts(world: _World, territory: str) -> Iterable[Fact]:
    """Cities that a time zone is named after, unless the name reveals the country, as Mexico City does."""
    country = letters_of(Locale.parse("en").territories[territory])
    regions = {*CONTINENTS, "Atlantic", "Indian"}
    zones = [
        zone for zone in world.zones[territory] if zone.split("/")[0] in regions and zone.count("/") == 1
    ]
    others = [
        code for code in world.neighbours(territory) if code != territory and code in world.named_territories
    ]
    for zone in sorted(zones, key=stable_hash)[:MAX_CITIES_PER_TERRITORY]:
        city = letters_of(zone.split("/")[-1])
        if city[:5] not in country and not city.startswith(country[:5]):
            yield Fact("city", "city", "city", zone, "territory", territory, tuple(sorted(others)), True)


def _calendar_facts() -> Iterable[Fact]:
    for kind, codes in (("month", range(1, 13)), ("day", range(7))):
        for position, code in enumerate(codes):
            for template, step in (("next", 1), ("prev", -1)):
                answer = codes[(position + step) % len(codes)]
                pool = tuple(str(other) for other in codes if other not in (code, answer))
                yield Fact("calendar", template, kind, str(code), kind, str(answer), pool, True)


def names_by_kind(facts: Iterable[Fact]) -> dict[str, set[str]]:
    """Kind -> the codes whose names can occur in a row made from these facts."""
    codes: defaultdict[str, set[str]] = defaultdict(set)
    for fact in facts:
        codes[fact.thing_kind].add(fact.thing)
        codes[fact.answer_kind].update((fact.answer, *fact.distractors))
    return dict(codes)
