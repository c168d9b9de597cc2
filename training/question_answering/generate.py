"""Makes training examples: a filled block with its questions, among other blocks that have nothing to do with it."""

import random
import re
from typing import Iterator, List, NamedTuple, Optional

from training.question_answering import events, frames
from training.question_answering.entities import Entities

#: Where one sentence ends and the next begins.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")
#: Share of blocks that are made by the sentence grammar, not written by hand; chosen.
EVENT_SHARE = 0.15
#: How often a second filling of the same block stands beside it, so that only the name in the question decides; chosen.
TWIN_SHARE = 0.35
#: Share of named questions whose block is left out, so that the token that stands for no answer is learned; chosen.
NO_ANSWER_SHARE = 0.06
#: Rough lengths of passages in words, drawn evenly; chosen to cover a line and a long paragraph.
TARGET_WORDS = (10, 25, 45, 65, 90, 120)
#: How people begin a question.
PREFIXES = (
    "According to the text, ",
    "Can you tell me ",
    "In the passage, ",
    "Please tell me: ",
    "So, ",
    "I would like to know: ",
)


class Example(NamedTuple):
    """One training example; the answer is `context[start:end]`, or none if both are -1."""

    context: str
    question: str
    start: int
    end: int


def find(text: str, answer: str) -> Optional[int]:
    """Where the answer stands as whole words, in whatever case, or None."""
    match = re.search(r"(?<!\w)" + re.escape(answer) + r"(?!\w)", text, re.IGNORECASE)
    return match.start() if match else None


class Generator:
    """An endless stream of examples, fixed by its seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.entities = Entities(self.rng)
        self.frames = frames.load()
        self.long = [frame for frame in self.frames if not frame.short]
        self.deck: List[frames.Frame] = []

    def __iter__(self) -> Iterator[Example]:
        while True:
            yield from self._passage()

    def _frame(self) -> frames.Frame:
        """The next hand-written block; each is used once before any is used again."""
        if not self.deck:
            self.deck = self.rng.sample(self.frames, len(self.frames))
        return self.deck.pop()

    def _passage(self) -> Iterator[Example]:
        """Examples on one block: about half of its questions, each in its own surroundings."""
        frame = events.block(self.rng) if self.rng.random() < EVENT_SHARE else self._frame()
        filled = frames.fill(frame, self.entities, self.rng)
        order = self.rng.sample(range(len(filled.questions)), len(filled.questions))
        for index in order[: len(order) // 2 + 1]:
            around = self._surroundings(frame, filled.named[index])
            example = self._example(filled, index, around)
            if example and filled.named[index] and around and self.rng.random() < NO_ANSWER_SHARE:
                yield Example(" ".join(around), example.question, -1, -1)
            elif example:
                yield example

    def _surroundings(self, frame: frames.Frame, named: bool) -> List[str]:
        """Other passages to stand around a block."""
        texts: List[str] = []
        if named and self.rng.random() < TWIN_SHARE:
            texts.append(frames.fill(frame, self.entities, self.rng).text)
        if frame.short and self.rng.random() < 0.6:
            return texts
        wanted = self.rng.choice(TARGET_WORDS)
        words = len(frame.passage.split())
        while words < wanted:
            texts.append(self._filler(frame))
            words += len(texts[-1].split())
        return texts

    def _filler(self, around: frames.Frame) -> str:
        """A piece of another block than the one it will stand around, whole or one or two sentences of it."""
        if self.rng.random() < 0.25:
            return frames.fill(events.block(self.rng), self.entities, self.rng).text
        frame = self.rng.choice([frame for frame in self.rng.sample(self.long, 2) if frame is not around])
        text = frames.fill(frame, self.entities, self.rng).text
        if self.rng.random() < 0.4:
            return text
        sentences = SENTENCE_END.split(text)
        first = self.rng.randrange(len(sentences))
        return " ".join(sentences[first : first + 2])

    def _example(self, filled: frames.Filled, index: int, around: List[str]) -> Optional[Example]:
        """One question on a block amid other text; None if the answer is not in the text as written."""
        question, answer = filled.questions[index]
        at = find(filled.text, answer)
        if at is None:
            return None
        self.rng.shuffle(around)
        cut = self.rng.randint(0, len(around))
        before = "".join(text + " " for text in around[:cut])
        context = before + " ".join([filled.text, *around[cut:]])
        start = len(before) + at
        return Example(context, self._ask(question), start, start + len(answer))

    def _ask(self, question: str) -> str:
        """Now and then dress the question differently, as people do."""
        roll = self.rng.random()
        if roll < 0.05:
            return self.rng.choice(PREFIXES) + question[0].lower() + question[1:]
        return question.rstrip("?") if roll < 0.15 else question
