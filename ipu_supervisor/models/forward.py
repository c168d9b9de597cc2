"""Runs rows of unequal length through an engine: which rows share a call, padding, and taking the padding off again.

A row is what the tokenizer gave for one sequence: `{"input_ids": [...], "attention_mask": [...], ...}`. Used by model
files in a replica; imported by the web side too, so numpy is imported where it is used.
"""

from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Sequence, Tuple

if TYPE_CHECKING:
    import numpy

Row = Dict[str, List[int]]

#: Most tokens in one call of an engine without a fixed batch, by kind of device. CPU: MiniLM and DistilBERT, float32,
#: two cores gain nothing above about 500 tokens (measured). GPU: chosen; a fraction of a gigabyte of activations.
MAX_CALL_TOKENS = {"cpu": 512, "cuda": 16_384}
#: Most padding that a row gets on such an engine, tokens. CPU: a call costs about as much as 40 tokens, whatever its
#: length (measured), so a little padding is cheaper than another call. GPU: chosen.
MAX_PADDING = {"cpu": 16, "cuda": 64}


def length_limit(engine: Any, wanted: int) -> int:
    """Return the longest row, tokens: `wanted`, or less where the tokenizer or the engine takes less."""
    return int(min(wanted, engine.tokenizer.model_max_length, engine.limits.length or wanted))


def tokenize(engine: Any, texts: Sequence[str], max_tokens: int) -> List[Row]:
    """Return one row for each text, cut at `max_tokens`."""
    limit = length_limit(engine, max_tokens)
    rows = (engine.tokenizer(text, truncation=True, max_length=limit) for text in texts)
    return [{name: row[name] for name in engine.tokenizer.model_input_names if name in row} for row in rows]


def forward(engine: Any, rows: Sequence[Row]) -> "Iterator[Tuple[int, Dict[str, numpy.ndarray]]]":
    """Yield each row's index and arrays, without its padding, in the order of computing."""
    for chunk in chunks([len(row["input_ids"]) for row in rows], engine):
        arrays = engine.forward(padded(engine, [rows[index] for index in chunk]))
        for place, index in enumerate(chunk):
            length = len(rows[index]["input_ids"])
            yield index, {name: array[place, :length] for name, array in arrays.items()}


def generate(engine: Any, rows: Sequence[Row], **settings: Any) -> "Iterator[Tuple[int, numpy.ndarray]]":
    """Yield each row's index and the ids written for it, in the order of computing."""
    for chunk in chunks([len(row["input_ids"]) for row in rows], engine):
        ids = engine.generate(padded(engine, [rows[index] for index in chunk]), **settings)
        for place, index in enumerate(chunk):
            yield index, ids[place]


def chunks(lengths: Sequence[int], engine: Any) -> Iterator[List[int]]:
    """Yield the indices of the rows that share a call: what the engine's limits allow, the longest rows first."""
    chunk: List[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if chunk and not _fits(len(chunk) + 1, lengths[chunk[0]], lengths[index], engine):
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk


def _fits(rows: int, longest: int, shortest: int, engine: Any) -> bool:
    """Tell whether so many rows may share a call."""
    if engine.limits.batch is not None:
        return rows <= int(engine.limits.batch)
    length = engine.limits.length or longest
    if rows * length > MAX_CALL_TOKENS.get(engine.device, MAX_CALL_TOKENS["cuda"]):
        return False
    padding = MAX_PADDING.get(engine.device, MAX_PADDING["cuda"])
    return engine.limits.length is not None or longest - shortest <= padding


def padded(engine: Any, rows: Sequence[Row]) -> "Dict[str, numpy.ndarray]":
    """Return the rows as int64 arrays (batch, length): padded on the right, the last repeated up to a fixed batch."""
    import numpy

    length = engine.limits.length or max(len(row["input_ids"]) for row in rows)
    filled = [*rows, *[rows[-1]] * ((engine.limits.batch or len(rows)) - len(rows))]
    arrays = {}
    for name in rows[0]:
        array = numpy.full((len(filled), length), _padding(engine.tokenizer, name), dtype=numpy.int64)
        for place, row in enumerate(filled):
            array[place, : len(row[name])] = row[name]
        arrays[name] = array
    return arrays


def _padding(tokenizer: Any, name: str) -> int:
    """Return the id that fills a row up."""
    if name == "input_ids":
        return int(tokenizer.pad_token_id or 0)
    return int(tokenizer.pad_token_type_id or 0) if name == "token_type_ids" else 0
