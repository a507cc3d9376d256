"""Writes notes.jsonl, train.jsonl and heldout.jsonl: a small invented world, the same for the same seed.

Each question takes two notes or three. No company that is asked about in held-out tasks is asked about in training.
"""

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

STARTS = ["Bel", "Dor", "Fen", "Gal", "Hol", "Kar", "Lum", "Mor", "Nor", "Os", "Pel", "Rav", "Sil", "Tor", "Vel", "Wen"]
ENDS = ["dale", "mund", "rick", "stad", "tin", "vik"]
FIRST = ["Ada", "Boris", "Clara", "Dmitri", "Elin", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Lars"]
TRADES = ["clocks", "bicycles", "maps", "lamps", "kites", "violins", "boots", "barometers"]
QUESTIONS = {
    "town": "In which town was the founder of {company} born?",
    "country": "In which country was the founder of {company} born?",
    "river": "Which river flows through the town where the founder of {company} was born?",
}


@dataclass(frozen=True)
class Company:
    """One chain of facts."""

    name: str
    founder: str
    facts: dict[str, str]


class World:
    """Towns, and companies whose founders were born there."""

    def __init__(self, seed: int, companies: int) -> None:
        rng = random.Random(seed)
        names = [start + end for start in STARTS for end in ENDS]
        rng.shuffle(names)
        places, families = names[:40], names[40:]
        countries, rivers, towns = places[:4], places[4:12], places[12:28]
        self.towns = [(town, rng.choice(countries), rng.choice(rivers)) for town in towns]
        self.companies = [self._company(rng, family, number) for number, family in enumerate(families[:companies])]
        self.trades = [rng.choice(TRADES) for _ in self.companies]

    def _company(self, rng: random.Random, family: str, number: int) -> Company:
        town, country, river = rng.choice(self.towns)
        founder = f"{FIRST[number % len(FIRST)]} {family}"
        return Company(f"{family} & Sons", founder, {"town": town, "country": country, "river": river})

    def notes(self) -> list[dict[str, str]]:
        """All that can be read."""
        told = [
            {"title": town, "text": f"{town} is a town in {country}, on the river {river}."}
            for town, country, river in self.towns
        ]
        for company, trade in zip(self.companies, self.trades, strict=True):
            told.append({"title": company.name, "text": f"{company.name} makes {trade}. Founder: {company.founder}."})
            town = company.facts["town"]
            told.append({"title": company.founder, "text": f"{company.founder} was born in {town} and died abroad."})
        return sorted(told, key=lambda note: note["title"])

    def tasks(self, *, heldout: bool) -> list[dict[str, str]]:
        """Every question about one company in four, or about the others."""
        asked = [company for number, company in enumerate(self.companies) if (number % 4 == 3) == heldout]
        return [
            {"question": question.format(company=company.name), "answer": company.facts[kind]}
            for company in asked
            for kind, question in QUESTIONS.items()
        ]


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    parser.add_argument("--companies", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    world = World(arguments.seed, arguments.companies)
    write(arguments.folder / "notes.jsonl", world.notes())
    for name in ("train", "heldout"):
        rows = world.tasks(heldout=name == "heldout")
        random.Random(arguments.seed).shuffle(rows)
        write(arguments.folder / f"{name}.jsonl", [{"id": f"{name}-{i}", **row} for i, row in enumerate(rows)])
