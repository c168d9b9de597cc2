"""What is asked: short texts with questions about them, alone and in chains, and how two answers are compared."""

import itertools
from typing import Any, Dict, List, Tuple

#: Texts, each with questions that it answers.
PASSAGES: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
    (
        "The ferry between Holm and Vesterby crosses the strait in forty minutes. It sails every two hours from six in "
        "the morning until ten at night, except on the first Monday of each month, when the hull is inspected. The "
        "ship was built in 1987 and carries 240 passengers and 38 cars.",
        ("How long does the crossing take?", "When was the ship built?", "How many cars does the ferry carry?"),
    ),
    (
        "Maria Lindqvist opened her bakery in the old customs house in 2004. She bakes rye bread at night and sells it "
        "from seven in the morning. On Saturdays people queue as far as the bridge. Her son Emil keeps the books and "
        "delivers to three schools and a hospital by bicycle.",
        ("Who opened the bakery?", "What does she bake?", "How does Emil deliver?"),
    ),
    (
        "The reservoir above the town holds twelve million cubic metres of water. Its dam is 61 metres high and was "
        "finished after nine years of work. In dry summers the ruins of the village of Alt-Rosenau appear on the "
        "northern shore, and visitors walk along its former main street.",
        ("How high is the dam?", "Which village lies in the reservoir?", "How much water does the reservoir hold?"),
    ),
    (
        "Researchers counted the swifts that nest under the roof of the railway station. There were 112 pairs in May, "
        "twice as many as ten years before. They believe that the new tiles, which leave gaps of four centimetres, are "
        "the reason. The city will use the same tiles for the library.",
        ("Where do the swifts nest?", "How many pairs were there in May?", "What do the researchers believe?"),
    ),
    (
        "The council voted by eleven to four for a tram to the harbour. Building begins in spring and should cost 93 "
        "million. Shops along the route will be paid for lost trade. Opponents had asked for electric buses, which "
        "would have been cheaper but slower at the busy crossing by the market.",
        ("What did the council vote for?", "What should the tram cost?", "What had the opponents asked for?"),
    ),
    (
        "Old clocks lose time when it is warm, because their pendulums grow longer. The clockmaker of the cathedral "
        "hung a jar of mercury from the rod in 1768: as the rod grows downwards the mercury rises, and the beat stays "
        "the same. The clock now errs by less than two seconds a week.",
        ("Why do old clocks lose time?", "What hangs from the rod?", "By how much does the clock err?"),
    ),
)
#: How many passages make a text: one, half of them, all of them (several windows of 384 tokens).
CHAINS = (1, 3, 6)


def comparable(model: str) -> List[Dict[str, str]]:
    """Return the inputs whose answers are compared with the CPU's."""
    if model == "summarization":
        return [{"documents": _chain(first, count)} for count in CHAINS[1:] for first in range(3)]
    short = [{"context": context, "question": question} for context, questions in PASSAGES for question in questions]
    return short + [{"context": _chain(0, count), "question": PASSAGES[0][1][0]} for count in CHAINS[1:]]


def mixed(model: str, requests: int, batch: int) -> List[List[Dict[str, str]]]:
    """Return the inputs of so many calls: short and long texts, single ones, some, full batches and more."""
    kinds = list(itertools.product(CHAINS, sorted({1, max(1, batch - 1), batch, batch + 1})))
    order = itertools.islice(itertools.cycle(kinds), requests)
    return [long(model, rows, number, chain) for number, (chain, rows) in enumerate(order)]


def long(model: str, count: int, call: int, chain: int = CHAINS[-1]) -> List[Dict[str, str]]:
    """Return the inputs of a call that are `chain` passages long, all different."""
    return [_numbered(model, chain, call * 10_000 + place) for place in range(count)]


def distinct(model: str, count: int, call: int) -> List[Dict[str, str]]:
    """Return the inputs of a call: one sentence each, all different, for equal ones in flight are computed once."""
    return [_sentence(model, call * count + place) for place in range(count)]


def compare(model: str, expected: List[Dict[str, Any]], found: List[Dict[str, Any]]) -> Tuple[int, float]:
    """Return how many answers are the same, and the worst likeness (summaries) or score difference (answers)."""
    if model == "summarization":
        pairs = [[answer["results"][0]["summary_text"] for answer in pair] for pair in zip(expected, found)]
        return sum(first == second for first, second in pairs), min(likeness(*pair) for pair in pairs)
    same = sum(first["results"] == second["results"] for first, second in zip(expected, found))
    return same, max(abs(first["score"] - second["score"]) for first, second in zip(expected, found))


def likeness(first: str, second: str) -> float:
    """Return the share of words that two texts have in common, 0 to 1; two empty texts are alike."""
    words, others = set(first.split()), set(second.split())
    return len(words & others) / len(words | others) if words | others else 1.0


def _chain(first: int, count: int) -> str:
    """Return some passages as one text."""
    return " ".join(PASSAGES[(first + number) % len(PASSAGES)][0] for number in range(count))


def _sentence(model: str, number: int) -> Dict[str, str]:
    """Return an input of one sentence."""
    passage, questions = PASSAGES[number % len(PASSAGES)]
    text = "{} {}".format(passage.split(". ")[0], number)
    return {"documents": text} if model == "summarization" else {"context": text, "question": questions[0]}


def _numbered(model: str, count: int, number: int) -> Dict[str, str]:
    """Return an input of some length that no other number has."""
    text = "{} Page {}.".format(_chain(number, count), number)
    if model == "summarization":
        return {"documents": text}
    return {"context": text, "question": PASSAGES[number % len(PASSAGES)][1][number % 3]}
