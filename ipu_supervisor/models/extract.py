"""Extractive summaries: splits a text into sentences and picks those that say most of it.

Splitting follows the punctuation of Latin, Cyrillic, Greek, Arabic, Indic, Armenian, Ethiopic, Burmese and East Asian
scripts; abbreviations are English ones. Choosing is by sentence vectors: near the middle of the text, far from what is
chosen already.
"""

import re
import textwrap
from typing import TYPE_CHECKING, Iterator, List, Mapping, NamedTuple, Sequence

if TYPE_CHECKING:
    import numpy

#: What closes behind a full stop and belongs to its sentence.
CLOSERS = "\"'”’»)\\]」』）】〉》"
#: A place where a sentence may end: full stops of scripts with spaces (`_ends` wants white space behind them: a
#: look-ahead here would take quadratic time on a row of stops); those of scripts without, anywhere; an empty line; a
#: line break before a list's mark.
BREAK = re.compile(
    r"(?P<stop>[.!?…]+[{closers}]*)|[。！？｡।॥؟۔։።။]+[{closers}]*".format(closers=CLOSERS)
    + r"|\n[ \t\r]*\n|\n(?=[ \t]*(?:[-*•·–]|\d+[.)])[ \t])"
)
#: Words with a full stop that do not end a sentence.
ALWAYS = frozenset(
    "mr mrs ms dr prof st mt sen rep gov gen col lt sgt capt cmdr rev hon pres vs cf approx dept univ fig figs eq eqs "
    "ch sec vol vols ed eds e.g i.e jan feb mar apr aug sept oct nov dec ave blvd".split()
)
#: Words with a full stop that do not end a sentence before a number.
BEFORE_NUMBER = frozenset("no nos p pp art para est c ca".split())
#: Words with a full stop that end a sentence only before one of `STARTERS`.
SOMETIMES = frozenset("inc ltd co corp jr sr etc al a.m p.m ph.d b.c a.d".split())
#: Words that begin a sentence much more often than a name.
STARTERS = frozenset(
    "the a an it its he she they we you i his her their our in on at by for from with as but and so if when while "
    "after before since although however this that these those there here then thus another one some many most no not "
    "what who how why".split()
)
#: An initial, or a row of them: `J`, `U.S`.
INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]\Z")
#: A number that begins a line, as lists have it.
LIST_NUMBER = re.compile(r"(?:\A|\n)[ \t]*\d{1,3}\Z")
#: Longest sentence, characters; a longer one (a transcript without full stops) is cut at white space (chosen).
LONGEST = 500
#: Likeness (cosine) to a chosen sentence above which one repeats it. Measured with MiniLM on 16 paragraphs: of 720
#: foreign sentences put in, 3 were chosen, and of 16 near copies none; plain maximal marginal relevance chose 15 and 1.
ALIKE = 0.8
#: What repeating costs, per unit of likeness above `ALIKE` (chosen; being central is worth at most 1).
REPEATING = 5.0
#: Characters below which a sentence is taken for a heading or a fragment, and counts less (chosen).
SHORT = 25


class Sentence(NamedTuple):
    """A sentence, its white space made single spaces; `spaced`: white space followed it in the text."""

    text: str
    spaced: bool


def split(text: str) -> List[Sentence]:
    """Return the sentences of a text in order; those without a letter or digit are left out."""
    ends = [match.end() for match in BREAK.finditer(text) if _ends(text, match)]
    sentences = []
    for start, end in zip([0, *ends], [*ends, len(text)]):
        words = " ".join(text[start:end].split())
        if any(character.isalnum() for character in words):
            *first, last = textwrap.wrap(words, LONGEST, break_long_words=False, break_on_hyphens=False)
            sentences += [Sentence(piece, True) for piece in first]
            sentences.append(Sentence(last, text[end - 1 : end + 1].strip() != text[end - 1 : end + 1]))
    return sentences


def _ends(text: str, match: "re.Match[str]") -> bool:
    """Tell whether a sentence ends at a place where it may."""
    stop = match.group("stop")
    if stop is None:
        return True
    if not text[match.end() : match.end() + 1].isspace() or LIST_NUMBER.search(
        text, max(0, match.start() - 8), match.start()
    ):
        return False
    following = _first_word(text, match.end())
    if following[:1].islower():
        return False
    if stop[0] != "." or stop.startswith(".."):
        return True
    return not _abbreviated(_last_word(text, match.start()), following)


def _abbreviated(word: str, following: str) -> bool:
    """Tell whether the full stop between two words belongs to the first of them."""
    lower = word.lower()
    if lower in BEFORE_NUMBER or word.isdigit():
        return following[:1].isdigit() and not word.isdigit()
    if lower in SOMETIMES or INITIALS.match(word):
        return following.lower() not in STARTERS
    return lower in ALWAYS


def _last_word(text: str, end: int) -> str:
    """Return the word that ends before a place, without what opens before it."""
    before = text[max(0, end - 40) : end].split()
    return before[-1].lstrip("\"'“‘«([") if before else ""


def _first_word(text: str, start: int) -> str:
    """Return the word that begins after a place, without punctuation around it."""
    after = text[start : start + 60].split()
    return after[0].strip("\"'“‘«([,;:.!?”’»)]") if after else ""


def central(sentences: Sequence[Sentence], embedded: "Mapping[str, numpy.ndarray]", count: int) -> List[int]:
    """Return the numbers of at most `count` sentences, ascending: those most central and least like each other.

    `embedded`: the vector of length 1 of each sentence's text.
    """
    import numpy

    vectors = numpy.stack([embedded[sentence.text] for sentence in sentences])
    weights = numpy.array([min(1.0, len(sentence.text) / SHORT) for sentence in sentences])
    middle = (vectors * weights[:, None]).sum(axis=0)
    centrality = weights * (vectors @ middle) / max(float(numpy.linalg.norm(middle)), 1e-12)
    return sorted(_picks(vectors, centrality, count))


def _picks(vectors: "numpy.ndarray", centrality: "numpy.ndarray", count: int) -> Iterator[int]:
    """Yield sentences, each time the most central that repeats none before it; of equal ones the earlier."""
    import numpy

    likeness = numpy.zeros(len(vectors))
    free = numpy.ones(len(vectors), dtype=bool)
    for _ in range(min(count, len(vectors))):
        worth = numpy.where(free, centrality - REPEATING * numpy.maximum(0.0, likeness - ALIKE), -numpy.inf)
        pick = int(numpy.argmax(worth.round(6)))
        free[pick] = False
        likeness = numpy.maximum(likeness, vectors @ vectors[pick])
        yield pick


def join(sentences: Sequence[Sentence]) -> str:
    """Return the sentences as one text, spaced where they were."""
    return "".join(sentence.text + " " * sentence.spaced for sentence in sentences).strip()
