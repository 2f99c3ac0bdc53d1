"""Build the frozen raw material of the biography world: names, cities, universities, majors, companies.

- Output: `physlm/worlds/bios/data/pools.json`, committed, because Faker's lists change between releases
  and would silently change every biography.
- Deterministic: provider lists are sorted before they are shuffled, Faker draws without frequency
  weights from its own seeded instance, and the Faker version is recorded in the file.
- Cardinalities and word statistics follow Part 3.1 (arXiv 2309.14316), section 2 and appendix A.1. The
  texts are our own.
- Every value has a `full` form and a `short` one-word form for reduced worlds. Short words are
  distinct across all pools and never a person's name, so that one word has one meaning.

Usage, with physlm and its extra `pools` installed:
    python scripts/build_biography_pools.py [--seed 0]   # write the file
    python scripts/build_biography_pools.py --check      # compare with the committed file
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import faker
import numpy as np
from faker.providers.address.en_US import Provider as AddressProvider
from faker.providers.person.en_US import Provider as PersonProvider

from physlm.randomness import Key

DESTINATION = Path(__file__).resolve().parents[1] / "physlm" / "worlds" / "bios" / "data" / "pools.json"
FORMAT_VERSION = 1

MONTHS = ["January", "February", "March", "April", "May", "June"]
MONTHS += ["July", "August", "September", "October", "November", "December"]

# Companies per city, largest first: 133 cities, 263 companies, 90 singletons.
OCCUPANCY = (36, 11, 11, 8, 7, 6, 5, 5, 4, 4, 4, *(3,) * 8, *(2,) * 24, *(1,) * 90)

# {P} is a place that no other value uses, {L} is one of LANDMARKS; 111 of 300 start with "University".
UNIVERSITY_GRAMMAR = (
    ("University of {P}", 60),
    ("University of {L} {P}", 25),
    ("University of {P} at {L} Campus", 26),
    ("{P} University", 29),
    ("{P} State University", 42),
    ("{P} Technical University", 20),
    ("{P} Teachers College", 20),
    ("{P} Institute of Technology", 40),
    ("{P} Valley State University", 8),
    ("{P} College of Advanced Study", 17),
    ("{P} School of Higher Learning", 13),
)
LANDMARKS = ("Northern", "Southern", "Eastern", "Western", "Central", "Upper", "Lower", "Coastal")

# Shape of a company name, how many of them, and whether the first word repeats that of another company:
# 1, 2, 3 and 4 words, 252 distinct first words.
COMPANY_SHAPES = (
    (r"[A-Za-z]+-[A-Za-z]+", 125, False),
    (r"[A-Za-z]+ (Inc|LLC|Group|PLC|Ltd)", 107, False),
    (r"[A-Za-z]+ and Sons", 12, False),
    (r"[A-Za-z]+, [A-Za-z]+ and [A-Za-z]+", 8, False),
    (r"[A-Za-z]+ (Inc|LLC|Group|PLC|Ltd)", 11, True),
)
BRAND_ENDINGS = ("corp", "works", "tek", "goods", "soft", "trade", "craft", "labs", "gen", "mart")

MAX_CITY_LETTERS = 12
MAX_PLACE_LETTERS = 11
MAX_DRAWS = 200_000

SINGLE_WORD_MAJORS = """
    Accounting Acoustics Aeronautics Agriculture Anatomy Anthropology Archaeology Architecture Astronomy
    Biochemistry Biology Botany Cartography Ceramics Chemistry Criminology Dance Dentistry Ecology Economics
    Entomology Finance Forestry Genetics Geography Geology History Horticulture Immunology Journalism
    Linguistics Logistics Marketing Mathematics Meteorology Music Neuroscience Nursing Nutrition Oceanography
    Optometry Pharmacology Philosophy Physics Psychology Sociology Statistics Theology Zoology
"""

# A single-word field is its own short form; the others name theirs.
MAJORS = {
    **{field: field for field in SINGLE_WORD_MAJORS.split()},
    "Actuarial Science": "Actuarial",
    "Aerospace Engineering": "Aerospace",
    "American Literature": "Literature",
    "Animal Husbandry": "Husbandry",
    "Applied Mechanics": "Mechanics",
    "Art Restoration": "Restoration",
    "Athletic Coaching": "Coaching",
    "Automotive Engineering": "Automotive",
    "Bilingual Education": "Education",
    "Biomedical Engineering": "Biomedicine",
    "Business Administration": "Business",
    "Chemical Engineering": "Petrochemistry",
    "Child Development": "Childcare",
    "Civil Engineering": "Engineering",
    "Classical Languages": "Classics",
    "Clinical Diagnostics": "Diagnostics",
    "Cognitive Science": "Cognition",
    "Community Health": "Health",
    "Computer Science": "Computing",
    "Creative Writing": "Writing",
    "Data Analytics": "Analytics",
    "Digital Media": "Media",
    "Electrical Engineering": "Electronics",
    "Environmental Policy": "Environment",
    "Family Counseling": "Counseling",
    "Fashion Design": "Fashion",
    "Film Production": "Film",
    "Fine Arts": "Arts",
    "Food Technology": "Gastronomy",
    "Forensic Chemistry": "Forensics",
    "Graphic Design": "Graphics",
    "Hotel Management": "Hospitality",
    "Human Resources": "Personnel",
    "Industrial Design": "Design",
    "International Relations": "Diplomacy",
    "Library Science": "Librarianship",
    "Marine Engineering": "Shipbuilding",
    "Materials Science": "Materials",
    "Mechanical Engineering": "Machinery",
    "Military Strategy": "Strategy",
    "Museum Studies": "Curation",
    "Nuclear Physics": "Nucleonics",
    "Physical Therapy": "Therapy",
    "Political Science": "Politics",
    "Public Relations": "Publicity",
    "Religious Studies": "Religion",
    "Social Work": "Welfare",
    "Urban Planning": "Urbanism",
    "History of Art": "Iconography",
    "Early Childhood Education": "Pedagogy",
    "Supply Chain Management": "Procurement",
}


def one_word(text: str) -> str:
    """'New Melanie' becomes 'Newmelanie'."""
    return text.replace(" ", "").capitalize()


def shuffled(items: Iterable[str], key: Key) -> list[str]:
    """Items in an order that depends on the key and on the set of items only."""
    ordered = np.array(sorted(items), dtype=object)
    return [str(item) for item in ordered[key.permutations(np.zeros(1, dtype=np.int64), len(ordered))[0]]]


def draw_until(draw: Callable[[], str], accept: Callable[[str], bool], count: int) -> list[str]:
    """The first `count` accepted draws; `accept` may remember what it has accepted."""
    accepted = []
    for _ in range(MAX_DRAWS):
        if len(accepted) == count:
            return accepted
        candidate = draw()
        if accept(candidate):
            accepted.append(candidate)
    raise RuntimeError(f"found {len(accepted)} of {count} values in {MAX_DRAWS} draws; try another seed")


def city_names(fake: faker.Faker, count: int, prefixed: int, taken: set[str]) -> list[str]:
    """Distinct city names, `prefixed` of them of two words ('New Melanie'); short forms are added to `taken`."""

    def of_words(words: int) -> Callable[[str], bool]:
        def accept(name: str) -> bool:
            short = one_word(name)
            if len(name.split()) != words or len(name) > MAX_CITY_LETTERS or short in taken:
                return False
            taken.add(short)
            return True

        return accept

    return draw_until(fake.city, of_words(2), prefixed) + draw_until(fake.city, of_words(1), count - prefixed)


def cities(fake: faker.Faker, count: int, prefixed: int, taken: set[str], key: Key) -> dict[str, list[str]]:
    """City pool: 'New Melanie, TX' and 'Newmelanie'."""
    names = shuffled(city_names(fake, count, prefixed, taken), key.child("order"))
    states = sorted(set(AddressProvider.states_abbr) - {"DC"})
    chosen = key.child("state").integers(np.arange(count), count=1, below=len(states))[:, 0]
    return {
        "full": [f"{name}, {states[state]}" for name, state in zip(names, chosen, strict=True)],
        "short": [one_word(name) for name in names],
    }


def universities(fake: faker.Faker, taken: set[str], key: Key) -> dict[str, list[str]]:
    """University pool: every university has a place of its own, which is its short form."""

    def accept(name: str) -> bool:
        if " " in name or len(name) > MAX_PLACE_LETTERS or name in taken:
            return False
        taken.add(name)
        return True

    patterns = [pattern for pattern, count in UNIVERSITY_GRAMMAR for _ in range(count)]
    places = draw_until(fake.city, accept, len(patterns))
    landmarks = key.child("landmark").integers(np.arange(len(patterns)), count=1, below=len(LANDMARKS))[:, 0]
    short_of = {
        pattern.format(P=place, L=LANDMARKS[landmark]): place
        for pattern, place, landmark in zip(patterns, places, landmarks, strict=True)
    }
    full = shuffled(short_of, key.child("order"))
    return {"full": full, "short": [short_of[name] for name in full]}


def companies(fake: faker.Faker, taken: set[str], key: Key) -> dict[str, list[str]]:
    """Company pool: Faker companies in fixed proportions of shapes; short forms are brand-like words."""
    names: list[str] = []
    first_words: set[str] = set()

    def of_shape(shape: str, repeated: bool) -> Callable[[str], bool]:
        def accept(name: str) -> bool:
            first = name.split()[0]
            if not re.fullmatch(shape, name) or name in names or (first in first_words) != repeated:
                return False
            first_words.add(first)
            names.append(name)
            return True

        return accept

    for shape, count, repeated in COMPANY_SHAPES:
        draw_until(fake.company, of_shape(shape, repeated), count)
    full = shuffled(names, key.child("order"))
    return {"full": full, "short": [brand(name, position, taken) for position, name in enumerate(full)]}


def brand(company: str, position: int, taken: set[str]) -> str:
    """A one-word brand, 'Garcia Inc' to 'Garciacorp', that is not yet in `taken`."""
    stem = re.split(r"[^A-Za-z]", company)[0]
    for attempt in range(len(BRAND_ENDINGS)):
        word = stem + BRAND_ENDINGS[(position + attempt) % len(BRAND_ENDINGS)]
        if word not in taken:
            taken.add(word)
            return word
    raise RuntimeError(f"no free brand for {company!r}: add to BRAND_ENDINGS")


def assign_headquarters(occupancy: Sequence[int], key: Key) -> list[int]:
    """City index of every company: city `i` hosts `occupancy[i]` companies, in random order."""
    slots = np.repeat(np.arange(len(occupancy)), occupancy)
    return [int(city) for city in slots[key.permutations(np.zeros(1, dtype=np.int64), len(slots))[0]]]


def build(seed: int = 0) -> dict[str, Any]:
    """All pools as one JSON-compatible dictionary."""
    key = Key.of("biography pools", seed)
    fake = faker.Faker("en_US", use_weighting=False)
    fake.seed_instance(seed)
    first_names, last_names = set(PersonProvider.first_names), set(PersonProvider.last_names)

    taken = first_names | last_names | set(MAJORS.values())
    birth_cities = cities(fake, 200, 60, taken, key.child("bcity"))
    company_cities = cities(fake, len(OCCUPANCY), 40, taken, key.child("ccity"))
    majors = shuffled(MAJORS, key.child("major"))
    return {
        "version": FORMAT_VERSION,
        "faker_version": faker.VERSION,
        "seed": seed,
        "first": shuffled(first_names, key.child("first"))[:400],
        "middle": shuffled(first_names, key.child("middle"))[:400],
        "last": shuffled(last_names, key.child("last")),
        "bcity": birth_cities,
        "univ": universities(fake, taken, key.child("univ")),
        "major": {"full": majors, "short": [MAJORS[field] for field in majors]},
        "cname": companies(fake, taken, key.child("cname")),
        "ccity": company_cities,
        "headquarters": assign_headquarters(OCCUPANCY, key.child("headquarters")),
        "months": MONTHS,
    }


def serialize(pools: dict[str, Any]) -> str:
    """The exact text of the committed file: one value per line, so that a change reads as a diff."""
    return json.dumps(pools, indent=1, ensure_ascii=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the frozen pools of the biography world.")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default 0, the committed file)")
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it")
    arguments = parser.parse_args()
    text = serialize(build(arguments.seed))
    if not arguments.check:
        DESTINATION.parent.mkdir(parents=True, exist_ok=True)
        DESTINATION.write_text(text, encoding="ascii")
        return
    committed = DESTINATION.read_text(encoding="ascii")
    if text != committed:
        recorded = json.loads(committed)["faker_version"]
        raise SystemExit(f"{DESTINATION.name} differs; built with Faker {recorded}, this is Faker {faker.VERSION}")
    print(f"{DESTINATION.name} is reproduced by Faker {faker.VERSION}")


if __name__ == "__main__":
    main()
