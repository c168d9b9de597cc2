"""A small sentence grammar: who did what, where, when, with whom, how and why, with a question for each part.

Makes `Frame`s out of `events.txt`; thousands of forms, all simple. The hand-written frames bring other sentences.
"""

import random
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from training.question_answering.frames import Frame

#: Parts that may follow the object, with the chance of each; chosen so that most sentences have two or three.
PARTS = {"place": 0.6, "time": 0.6, "with": 0.25, "how": 0.3, "why": 0.35}
#: Slots that a later sentence has anew.
KINDS = "city country object animal room publicplace year weekday n colour plant building people job".split()
#: Wordings and the answer.
Question = Tuple[List[str], str]


class Verb(NamedTuple):
    """A verb's forms: past, base, participle, and a synonym's past and base."""

    past: str
    base: str
    participle: str
    past2: str
    base2: str


class Subject(NamedTuple):
    """Who acts: as first written, as asked about, and its pronouns."""

    text: str
    name: str
    he: str
    his: str


def read() -> Dict[str, List[List[str]]]:
    """Read `kind: field | field` lines."""
    table: Dict[str, List[List[str]]] = {}
    for line in Path(__file__).with_name("events.txt").read_text(encoding="utf-8").splitlines():
        kind, _, rest = line.partition(": ")
        if not line.startswith("#") and rest:
            table.setdefault(kind, []).append([field.strip() for field in rest.split(" | ")])
    return table


#: The lines of `events.txt` by kind.
TABLE = read()


def block(rng: random.Random) -> Frame:
    """One to three sentences about one subject as an unfilled frame."""
    subject = _subject(rng)
    sentences: List[str] = []
    questions: List[Question] = []
    verbs = rng.sample(TABLE["verb"], rng.choice((1, 1, 2, 3)))
    for position, fields in enumerate(verbs):
        text, asked = _sentence(subject, fields, position, rng)
        sentences.append(text)
        questions += asked
    return Frame(" ".join(sentences), questions, False)


def _subject(rng: random.Random) -> Subject:
    """Someone to act."""
    text = rng.choice(TABLE["who"])[0]
    if "{person" in text:
        name = "{person.first}" if text == "{person.first}" else "{person}"
        return Subject(text, name, "{person.he}", "{person.his}")
    plural = "people" in text or "company" in text
    return Subject(text, text, "they" if plural else "he", "their" if plural else "his")


def _renumber(text: str, position: int) -> str:
    """Give the slots of a later sentence their own numbers; people keep theirs."""
    if position:
        for kind in KINDS:
            text = text.replace("{" + kind + "}", "{" + kind + str(position + 1) + "}")
    return text


def _part(kind: str, subject: Subject, position: int, rng: random.Random) -> List[str]:
    """One place, time, companion, means or reason, about this subject."""
    fields = [field.replace("{he}", subject.he).replace("{his}", subject.his) for field in rng.choice(TABLE[kind])]
    return [_renumber(field, position) for field in fields]


def _sentence(subject: Subject, fields: List[str], position: int, rng: random.Random) -> Tuple[str, List[Question]]:
    """One sentence and its questions; a later sentence calls its subject by a pronoun."""
    verb = Verb(*fields[:5])
    thing = _renumber(rng.choice(fields[5].split(";")).strip(), position)
    chosen = {kind: _part(kind, subject, position, rng) for kind, chance in PARTS.items() if rng.random() < chance}
    texts = {kind: part[0] for kind, part in chosen.items()}
    text = _arrange(subject, verb, thing, texts, position > 0, rng)
    return text, _questions(subject, verb, thing, chosen)


def _arrange(subject: Subject, verb: Verb, thing: str, parts: Dict[str, str], later: bool, rng: random.Random) -> str:
    """Word order: active or passive, time or place in front or behind."""
    order = [kind for kind in ("how", "with", "place", "time", "why") if kind in parts]
    front = [kind for kind in ("time", "place") if kind in parts and rng.random() < 0.4][:1]
    tail = [parts[kind] for kind in order if kind not in front]
    if not later and rng.random() < 0.25:
        core = [thing, "were" if thing.endswith("s") else "was", verb.participle, "by", subject.text]
    else:
        core = [subject.he if later else subject.text, verb.past, thing]
    text = " ".join([parts[kind] + "," for kind in front] + core + tail)
    return text[0].upper() + text[1:] + "."


def _questions(subject: Subject, verb: Verb, thing: str, parts: Dict[str, List[str]]) -> List[Question]:
    """A question for each part of a sentence."""
    name = subject.name
    tail = f"did {name} {verb.base} {thing}?"
    tail2 = f"did {name} {verb.base2} {thing}?"
    passive = f"{'were' if thing.endswith('s') else 'was'} {thing} {verb.participle}?"
    what = [f"What did {name} {verb.base}?", f"What did {name} {verb.base2}?", f"What was {verb.participle} by {name}?"]
    who = [
        f"Who {verb.past} {thing}?",
        f"Who {verb.past2} {thing}?",
        f"By whom {passive}",
        f"Who was it that {verb.past} {thing}?",
    ]
    asked = [(what, thing), (who, name)]
    if "place" in parts:
        where = [f"Where {tail}", f"Where {passive}", f"Where {tail2}", f"In which place {tail}"]
        asked.append((where, parts["place"][1]))
    if "time" in parts:
        words = [word.strip() for word in parts["time"][2].split(";")]
        asked.append(([f"{word} {end}" for word in words for end in (tail, passive, tail2)], parts["time"][1]))
    if "with" in parts:
        whom = [f"With whom {tail}", f"Who helped {name} to {verb.base} {thing}?", f"Who {tail[:-1]} with?"]
        asked.append((whom, parts["with"][1]))
    if "why" in parts:
        why = [f"Why {tail}", f"For what reason {tail}", f"Why {passive}", f"What made {name} {verb.base} {thing}?"]
        asked.append((why, parts["why"][1]))
    if "how" in parts:
        asked.append(_how(parts["how"][1], tail, name, verb, thing))
    return asked


def _how(answer: str, tail: str, name: str, verb: Verb, thing: str) -> Question:
    """What to ask for a means, a price or a length of time."""
    kind, _, value = answer.partition(" ")
    if kind == "MONEY":
        return [f"For how much money {tail}", f"What sum was paid when {name} {verb.past} {thing}?"], value
    if kind == "LONG":
        doing = f"{verb.base} {thing}?"
        return [f"How long did it take {name} to {doing}", f"How much time did {name} need to {doing}"], value
    return [f"How {tail}", f"In what way {tail}", f"By what means {tail}"], answer
