"""Frames: hand-written passages with slots and questions. Parses `frames/*.txt` and fills them in.

A block is a passage line followed by lines `? question || other wording = answer`. `{city}` and `{city2}` are slots,
`{person.last}` a form of one, `[a|b]` a choice; the same slot or choice has one value throughout a filled block.
"""

import random
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from training.question_answering.entities import Entities, Person

SLOT = re.compile(r"\{([a-z]+)(\d*)(?:\.(\w+))?\}")
CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")
BARE_ARTICLE = re.compile(r"\b([Aa]) (?=[aeio](?!u|ne?\b|nce)|u[mn](?!i))")


class Frame(NamedTuple):
    """One block as written; each question is (wordings, answer)."""

    passage: str
    questions: List[Tuple[List[str], str]]
    short: bool


class Filled(NamedTuple):
    """One block with values: its text and the (question, answer) pairs; `named` tells which questions name a slot."""

    text: str
    questions: List[Tuple[str, str]]
    named: List[bool]


def parse(text: str, short: bool) -> List[Frame]:
    """Parse a frames file."""
    frames: List[Frame] = []
    for line in text.splitlines():
        if line.startswith("?"):
            wordings, _, answer = line[1:].rpartition(" = ")
            frames[-1].questions.append(([wording.strip() for wording in wordings.split("||")], answer.strip()))
        elif line.strip() and not line.startswith("#"):
            frames.append(Frame(line.strip(), [], short))
    return frames


def load() -> List[Frame]:
    """Read every frames file; those whose name starts with `short` are used mostly without other text around them."""
    frames: List[Frame] = []
    for path in sorted(Path(__file__).with_name("frames").glob("*.txt")):
        frames += parse(path.read_text(encoding="utf-8"), path.name.startswith("short"))
    return frames


class Filler:
    """Fills one block: remembers slots and choices so that they agree."""

    def __init__(self, entities: Entities, rng: random.Random) -> None:
        self.entities = entities
        self.rng = rng
        self.slots: Dict[str, object] = {}
        self.choices: Dict[str, str] = {}

    def fill(self, template: str) -> str:
        """Replace choices, then slots."""
        while CHOICE.search(template):
            template = CHOICE.sub(self._choice, template)
        return BARE_ARTICLE.sub(r"\1n ", SLOT.sub(self._slot, template))

    def _choice(self, match: "re.Match[str]") -> str:
        key = match.group(1)
        if key not in self.choices:
            self.choices[key] = self.rng.choice(key.split("|"))
        return self.choices[key]

    def _slot(self, match: "re.Match[str]") -> str:
        kind, index, form = match.groups()
        key = kind + index
        if key not in self.slots:
            self.slots[key] = self._fresh(kind)
        value = self.slots[key]
        return value.form(form or "full") if isinstance(value, Person) else str(value)

    def _fresh(self, kind: str) -> object:
        taken = [str(value) for value in self.slots.values()]
        for _ in range(20):
            value = self.entities.draw(kind)
            if str(value) not in taken:
                break
        return value


def capitalised(text: str) -> str:
    """Begin every sentence with a capital."""
    return SENTENCE_START.sub(lambda match: match.group(1) + match.group(2).upper(), text)


def fill(frame: Frame, entities: Entities, rng: random.Random) -> Filled:
    """Fill one frame with fresh values, one wording per question."""
    filler = Filler(entities, rng)
    text = capitalised(filler.fill(frame.passage))
    questions, named = [], []
    for wordings, answer in frame.questions:
        wording = rng.choice(wordings)
        questions.append((filler.fill(wording), filler.fill(answer)))
        named.append("{" in wording)
    return Filled(text, questions, named)
