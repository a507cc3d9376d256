"""Real countries (`countryinfo`) under invented names: passages about them, and questions that take two passages.

With real names a model guesses instead of searching. Names are drawn anew for each world, and no two worlds of one
`Names` share any.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from countryinfo import all_countries

PROVINCES = 2
ONSETS = [*"bdfgklmnprstvz", "br", "dr", "gr", "kr", "st", "tr"]
SYLLABLES = [onset + vowel for onset in ONSETS for vowel in "aeiou"]
ENDINGS = ["l", "n", "r", "s", "th", "rk", "nd", "st"]

BRIDGES = {
    "capital": ["the country whose capital is {x}", "the country with the capital {x}", "the land ruled from {x}"],
    "province": ["the country that {x} is a province of", "the country with the province {x}", "the land around {x}"],
    "neighbour": ["the only neighbour of {x}", "the one country next to {x}", "the sole land beside {x}"],
}
ASKED = {
    "currency": "What is the currency of {bridge}?",
    "language": "Which language do people speak in {bridge}?",
    "capital": "What is the capital of {bridge}?",
}
TOLD = {
    "currency": "The currency of {country} is the {value}.",
    "language": "The language of {country} is {value}.",
    "capital": "{value} is the capital of {country}.",
    "province": "{value} is a province of {country}.",
    "neighbour": "The only neighbour of {value} is {country}.",
}


class Names:
    """Invented names, each given once."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._given: set[str] = set()

    def fresh(self) -> str:
        while True:
            name = "".join(self._rng.choices(SYLLABLES, k=2)) + self._rng.choice(ENDINGS)
            if name not in self._given:
                self._given.add(name)
                return name.capitalize()


@dataclass(frozen=True)
class Country:
    """One country under its invented names."""

    name: str
    facts: dict[str, str]
    """What can be asked: currency, language, capital."""
    bridges: list[tuple[str, str]]
    """(kind, name) of what leads to it: its capital, provinces, and countries that have no other neighbour."""

    def passages(self) -> Iterator[str]:
        for kind, value in dict.fromkeys([*self.facts.items(), *self.bridges]):
            yield TOLD[kind].format(country=self.name, value=value)


@dataclass(frozen=True)
class Question:
    """A question with what its two searches are to find."""

    text: str
    answer: str
    kind: str
    bridge: str
    country: str
    asked: str


def halves(seed: int) -> tuple[list[Country], list[Country]]:
    """Two worlds without a common country or name: three countries in four to train on, and the others."""
    known = (country.info() for country in all_countries())
    whole = (info for info in known if all(info.get(key) for key in ("capital", "currencies", "languages", "ISO")))
    real = list({info["ISO"]["alpha3"]: info for info in whole}.values())
    random.Random(seed).shuffle(real)
    names, cut = Names(seed), len(real) * 3 // 4
    return world(real[:cut], names), world(real[cut:], names)


def world(real: list[dict], names: Names) -> list[Country]:
    """These countries under new names; what two share (the euro, Spanish) they share under its new name too."""
    codes = {info["ISO"]["alpha3"]: names.fresh() for info in real}
    shared: dict[tuple[str, str], str] = {}

    def renamed(kind: str, value: str) -> str:
        return shared.setdefault((kind, value), names.fresh())

    leads_to: dict[str, list[str]] = {code: [] for code in codes}
    for info in real:
        neighbour = only_neighbour(info)
        if neighbour in leads_to:
            leads_to[neighbour].append(codes[info["ISO"]["alpha3"]])
    countries: list[Country] = []
    for info in real:
        code = info["ISO"]["alpha3"]
        facts = {
            "currency": renamed("currency", info["currencies"][0]),
            "language": renamed("language", info["languages"][0]),
            "capital": names.fresh(),
        }
        provinces = [("province", names.fresh()) for _ in info.get("provinces", [])[:PROVINCES]]
        neighbours = [("neighbour", name) for name in leads_to[code]]
        countries.append(Country(codes[code], facts, [("capital", facts["capital"]), *provinces, *neighbours]))
    return countries


def only_neighbour(info: dict) -> str | None:
    borders = info.get("borders") or []
    return borders[0] if len(borders) == 1 else None


def questions(countries: list[Country], *, heldout: bool) -> list[Question]:
    """All questions over a world. The last wording of each bridge is kept for held-out ones, which have all three."""
    return [
        Question(ASKED[asked].format(bridge=wording.format(x=value)), answer, kind, value, country.name, asked)
        for country in countries
        for kind, value in country.bridges
        for wording in BRIDGES[kind][: None if heldout else -1]
        for asked, answer in country.facts.items()
        if asked != kind
    ]
