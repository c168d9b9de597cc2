"""Values for the slots of frames and events: people, places, numbers, dates, and words from `words.txt`.

Owns the vocabulary; knows nothing of sentences. Everything is drawn from one seeded `random.Random`.
"""

import random
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Tuple

from faker import Faker

#: Latin-script locales, so that names and places have many spellings.
LOCALES = [
    "en_US",
    "en_GB",
    "en_IN",
    "en_IE",
    "de_DE",
    "fr_FR",
    "es_ES",
    "it_IT",
    "nl_NL",
    "pl_PL",
    "pt_BR",
    "sv_SE",
    "fi_FI",
    "cs_CZ",
    "tr_TR",
    "ro_RO",
    "hu_HU",
    "hr_HR",
    "no_NO",
    "da_DK",
    "es_MX",
]
#: Names and places drawn per locale; chosen so that a training run seldom repeats one.
POOL_PER_LOCALE = 220
#: Words that need no file.
MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SMALL = (
    "two three four five six seven eight nine ten eleven twelve thirteen fifteen sixteen eighteen twenty thirty forty"
).split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth twelfth twentieth".split()
#: What a word becomes for a woman.
FEMALE = {"he": "she", "him": "her", "his": "her", "himself": "herself", "son": "daughter", "Mr": "Ms"}
#: Slot kinds that are methods of `Entities`.
METHODS = (
    "person city company year date time money percent n big name code duration distance weight temperature".split()
)
#: Parts of invented words.
ONSETS = "b br ch d dr f g gl h j k kr l m n p qu r s sh st t th tr v w x y z ".split(" ")
VOWELS = "a e i o u ai ea ou y".split()
CODAS = "l m n r s t th x nd rk sh ck ll   ".split(" ")


class Person(NamedTuple):
    """One made-up person."""

    first: str
    last: str
    female: bool

    @property
    def full(self) -> str:
        """First and last name."""
        return f"{self.first} {self.last}".strip()

    def form(self, name: str) -> str:
        """`full`, `first`, `last` or a pronoun such as `he`, `him`, `his`, `himself`; capitalised as it is written."""
        if name in ("full", "first", "last"):
            return getattr(self, name)
        word = FEMALE[name] if name in FEMALE else FEMALE[name.lower()].capitalize()
        return word if self.female else name


def read_words(path: Path) -> Dict[str, List[str]]:
    """Read `kind: a; b; c` lines; a kind may have several lines."""
    words: Dict[str, List[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, _, values = line.partition(":")
        if values:
            words.setdefault(kind.strip(), []).extend(value.strip() for value in values.split(";") if value.strip())
    return words


class Entities:
    """Draws a value for a slot kind."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.words = read_words(Path(__file__).with_name("words.txt"))
        self.women, self.men, self.last, self.cities, self.companies, self.streets = self._pools()
        self.makers: Dict[str, Callable[[], object]] = {
            **{kind: getattr(self, kind) for kind in METHODS},
            "street": lambda: self.rng.choice(self.streets),
            "small": lambda: self.rng.choice(SMALL),
            "weekday": lambda: self.rng.choice(WEEKDAYS),
            "month": lambda: self.rng.choice(MONTHS),
            "ordinal": lambda: self.rng.choice(ORDINALS),
            "age": lambda: str(self.rng.randint(4, 98)),
            "century": lambda: f"{self.rng.randint(9, 20)}th century",
        }

    def draw(self, kind: str) -> object:
        """A value of this kind: a `Person` for `person`, else a string."""
        maker = self.makers.get(kind)
        return maker() if maker else self.rng.choice(self.words[kind])

    def _pools(self) -> Tuple[List[str], ...]:
        """Names and places of all locales: women, men, families, cities, companies, streets."""
        pools: Tuple[List[str], ...] = ([], [], [], [], [], [])
        Faker.seed(self.rng.randrange(2**31))
        for locale in LOCALES:
            fake = Faker(locale)
            makers = (
                fake.first_name_female,
                fake.first_name_male,
                fake.last_name,
                fake.city,
                fake.company,
                fake.street_name,
            )
            for pool, maker in zip(pools, makers):
                pool.extend(maker() for _ in range(POOL_PER_LOCALE))
        return pools

    def person(self) -> Person:
        """A person; one in twelve has an invented name."""
        female = self.rng.random() < 0.5
        if self.rng.random() < 0.08:
            return Person(self.name(), self.name(), female)
        return Person(self.rng.choice(self.women if female else self.men), self.rng.choice(self.last), female)

    def city(self) -> str:
        """A place: from the word list, from Faker, or invented."""
        roll = self.rng.random()
        if roll < 0.45:
            return self.rng.choice(self.words["knowncity"])
        return self.rng.choice(self.cities) if roll < 0.9 else self.name()

    def company(self) -> str:
        """A company name."""
        if self.rng.random() < 0.5:
            return self.rng.choice(self.companies)
        return f"{self.name()} {self.rng.choice(self.words['companysuffix'])}"

    def name(self) -> str:
        """A word nobody has seen."""
        pick = self.rng.choice
        return "".join(
            pick(ONSETS) + pick(VOWELS) + pick(CODAS) for _ in range(self.rng.choice((2, 2, 3)))
        ).capitalize()

    def year(self) -> str:
        """A year, mostly modern."""
        return str(self.rng.randint(1850, 2024) if self.rng.random() < 0.75 else self.rng.randint(1050, 1850))

    def date(self) -> str:
        """A calendar date in one of several styles."""
        day, month, year = self.rng.randint(1, 28), self.rng.choice(MONTHS), self.year()
        styles = (
            f"{day} {month} {year}",
            f"{month} {day}, {year}",
            f"{day} {month}",
            f"{month} {day}",
            f"{month} {year}",
        )
        return self.rng.choice(styles)

    def time(self) -> str:
        """A time of day."""
        hour, minute = self.rng.randint(1, 12), self.rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50))
        half = self.rng.choice(("am", "pm", "a.m.", "p.m.", "o'clock in the morning"))
        past = f"half past {self.rng.choice(SMALL[:9])}"
        return self.rng.choice((f"{hour}:{minute:02d}", f"{hour + 11}:{minute:02d}", f"{hour} {half}", past, "noon"))

    def n(self) -> str:
        """A count in figures."""
        return str(self.rng.choice((self.rng.randint(2, 30), self.rng.randint(20, 999), self.rng.randint(20, 99) * 10)))

    def big(self) -> str:
        """A large count."""
        styles = (
            f"{self.rng.randint(1000, 99999):,}",
            f"{self.rng.randint(2, 900)} million",
            f"{self.rng.choice(SMALL)} thousand",
        )
        return self.rng.choice(styles)

    def money(self) -> str:
        """A sum of money."""
        large = f"{self.rng.randint(1000, 90000):,}"
        amount = self.rng.choice((str(self.rng.randint(2, 950)), large, f"{self.rng.randint(2, 80)} million"))
        unit = self.rng.choice("euros dollars pounds francs crowns rupees yen pesos".split())
        return self.rng.choice((f"{amount} {unit}", f"{amount} {unit}", f"${amount}", f"£{amount}", f"€{amount}"))

    def percent(self) -> str:
        """A percentage."""
        broken = f"{self.rng.randint(1, 30)}.{self.rng.randint(1, 9)}"
        number = self.rng.choice((str(self.rng.randint(2, 97)), broken, self.rng.choice(SMALL)))
        signs = ("%", " percent") if number[-1].isdigit() else (" percent", " per cent")
        return number + self.rng.choice(signs)

    def _measure(self, units: str) -> str:
        broken = f"{self.rng.randint(1, 9)}.{self.rng.randint(1, 9)}"
        count = self.rng.choice((self.rng.choice(SMALL), str(self.rng.randint(2, 900)), broken))
        return f"{count} {self.rng.choice(units.split())}"

    def duration(self) -> str:
        """A length of time."""
        return self._measure("minutes hours days weeks months years seconds years")

    def distance(self) -> str:
        """A length."""
        return self._measure("metres kilometres miles feet centimetres kilometers yards")

    def weight(self) -> str:
        """A weight or volume."""
        return self._measure("kilograms tonnes grams pounds litres kilos")

    def temperature(self) -> str:
        """A temperature."""
        unit = self.rng.choice(("degrees", "degrees Celsius", "degrees Fahrenheit", "°C"))
        return f"{self.rng.randint(-40, 900)} {unit}"

    def code(self) -> str:
        """A label such as B12."""
        return f"{self.rng.choice('ABCDEFGHKLMNPRSTVX')}{self.rng.randint(1, 999)}"
