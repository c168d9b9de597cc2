"""Windows over a context, and the best answer out of their scores: question answering before and after computing.

Answers and scores are those of the question-answering pipeline of Transformers 4.57 (gone in version 5), with its
defaults `top_k=1`, `handle_impossible_answer=False`, `align_to_words=True`; `tests/golden/` holds its results. One
thing is added: an answer never ends inside a character that is written with several code points (an emoji, a letter
with combining marks).
"""

from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ipu_supervisor.models.base import InvalidInput

if TYPE_CHECKING:
    import numpy

#: Spans of a window that are looked at for the best answer; several may be one text, whose scores add up (the
#: pipeline's `top_k * 2 + 10`).
CANDIDATES = 12
#: What replaces the score of a token that cannot be in an answer (the pipeline's number).
IMPOSSIBLE = -10_000.0


class Window(NamedTuple):
    """One stretch of a context behind its question. `allowed`: bool (length,), tokens that may be in an answer."""

    row: Dict[str, List[int]]
    allowed: "numpy.ndarray"
    encoding: Any


class Answer(NamedTuple):
    """`text` is `context[start:end]`. The score is a sum over the windows that agree, so it may pass 1."""

    text: str
    score: float
    start: int
    end: int


def windows(tokenizer: Any, question: str, context: str, max_seq_len: int, doc_stride: int) -> List[Window]:
    """Cut a context into windows of `max_seq_len` tokens, question included, that share `doc_stride`.

    Raises `InvalidInput`.
    """
    _check_question(tokenizer, question, max_seq_len, doc_stride)
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=max_seq_len,
        stride=doc_stride,
        return_token_type_ids=True,
        return_overflowing_tokens=True,
    )
    names = [name for name in tokenizer.model_input_names if name in encoded]
    return [
        Window(
            {name: encoded[name][number] for name in names},
            _allowed(encoded["input_ids"][number], encoded.sequence_ids(number), tokenizer.cls_token_id),
            encoded[number],
        )
        for number in range(len(encoded["input_ids"]))
    ]


def _check_question(tokenizer: Any, question: str, max_seq_len: int, doc_stride: int) -> None:
    """Refuse a question that leaves the context less than half the window, or no more than the overlap."""
    room = max_seq_len - tokenizer.num_special_tokens_to_add(pair=True)
    limit = min(max_seq_len // 2, room - doc_stride - 1)
    tokens = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    if tokens > limit:
        raise InvalidInput("The question has {} tokens; shorten it to at most {}.".format(tokens, limit))


def _allowed(ids: List[int], sequences: List[Optional[int]], cls_id: Optional[int]) -> "numpy.ndarray":
    """Return which tokens may be in an answer: the context's, and the one that stands for no answer."""
    import numpy

    found: numpy.ndarray = (numpy.array(sequences) == 1) | (numpy.array(ids) == cls_id)
    return found


def best(context: str, outputs: "List[Tuple[Window, Dict[str, numpy.ndarray]]]", max_answer_len: int) -> Answer:
    """Return the best answer over all windows; an empty one where the context has no token that could be an answer."""
    found: Dict[str, Answer] = {}
    for window, scores in outputs:
        for first, last, score in candidates(window.allowed, scores, max_answer_len):
            start, end = characters(window.encoding, first, last)
            text = context[start:end]
            known = found.get(text.lower(), Answer(text, 0.0, start, end))
            found[text.lower()] = known._replace(score=known.score + score)
    answer = max(found.values(), key=lambda answer: answer.score, default=Answer("", 0.0, 0, 0))
    start, end = whole_characters(context, answer.start, answer.end)
    return Answer(context[start:end], answer.score, start, end)


def candidates(
    allowed: "numpy.ndarray", scores: "Dict[str, numpy.ndarray]", max_answer_len: int
) -> Iterator[Tuple[int, int, float]]:
    """Yield first token, last token and score of the likeliest spans of a window, the best first.

    `scores`: `start_logits` and `end_logits`, float32 (length,).
    """
    import numpy

    start = _probabilities(allowed, scores["start_logits"])
    end = _probabilities(allowed, scores["end_logits"])
    spans = numpy.tril(numpy.triu(numpy.outer(start, end)), max_answer_len - 1)
    flat = spans.flatten()
    best_first = numpy.argsort(-flat)
    if len(flat) > CANDIDATES:
        likeliest = numpy.argpartition(-flat, CANDIDATES)[:CANDIDATES]
        best_first = likeliest[numpy.argsort(-flat[likeliest])]
    for first, last in zip(*numpy.unravel_index(best_first, spans.shape)):
        if allowed[first] and allowed[last]:
            yield int(first), int(last), float(spans[first, last])


def _probabilities(allowed: "numpy.ndarray", logits: "numpy.ndarray") -> "numpy.ndarray":
    """Return the softmax over the allowed tokens, float32 (length,); then 0 for the first, which means no answer."""
    import numpy

    masked = numpy.where(allowed, logits.astype(numpy.float32), numpy.float32(IMPOSSIBLE))
    powers = numpy.exp(masked - masked.max())
    probabilities: numpy.ndarray = powers / powers.sum()
    probabilities[0] = 0.0
    return probabilities


def characters(encoding: Any, first: int, last: int) -> Tuple[int, int]:
    """Return where the words of two tokens begin and end in the context; the tokens, where there are no words."""
    words = encoding.token_to_word(first), encoding.token_to_word(last)
    if None not in words:
        begin, end = (encoding.word_to_chars(word, sequence_index=1) for word in words)
        if begin is not None and end is not None:
            return int(begin[0]), int(end[1])
    return int(encoding.offsets[first][0]), int(encoding.offsets[last][1])


def whole_characters(text: str, start: int, end: int) -> Tuple[int, int]:
    """Widen a span until it cuts no character as readers know it (a grapheme cluster of Unicode)."""
    import regex

    for match in regex.finditer(r"\X", text):
        if match.start() < start < match.end():
            start = match.start()
        if match.start() < end < match.end():
            end = match.end()
        if match.end() >= end:
            break
    return start, end
