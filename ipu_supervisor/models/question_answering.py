"""Question answering: finds the answer to a question in a text, and says how sure it is."""

from typing import Any, Dict, List, Mapping

from marshmallow import Schema, fields, validate

from ipu_supervisor.models import forward, spans
from ipu_supervisor.models.base import BasePipeline, InvalidInput, OptionsSchema, text_field


class QuestionAnsweringInput(Schema):
    """A text and a question about it."""

    context = text_field("Text that holds the answer.", "My name is Rob and I live in Bristol.")
    question = text_field("Question about the text.", "Where does Rob live?")


class QuestionAnsweringOutput(Schema):
    """The answer, and how sure the model is."""

    results = fields.String(
        required=True, metadata={"description": "The answer, a part of the context; empty if there is none."}
    )
    score = fields.Float(
        required=True,
        metadata={"description": "Higher is surer. Over a long context the windows' scores add up, so it may pass 1."},
    )


class QuestionAnsweringOptions(OptionsSchema):
    """What `SERVER_MODELS` may set."""

    #: Longest text, characters: at worst each is a token, and there are 83 windows, which take DistilBERT in float32 20
    #: s of one core (measured, Xeon with AVX-512), so about 11 s of the 30 s that a batch may take on two. English
    #: prose: 5 s.
    max_chars = fields.Integer(
        load_default=20_000, validate=validate.Range(min=1), metadata={"description": "Longest text taken, characters."}
    )
    max_windows = fields.Integer(
        load_default=100,
        validate=validate.Range(min=1),
        metadata={"description": "Most windows that one context may need; 100 take about 13 s on two CPU cores."},
    )
    #: At least 64, whose windows have room for a question of 27 tokens: the example's fits, whatever the tokenizer.
    max_seq_len = fields.Integer(
        load_default=384,
        validate=validate.Range(min=64),
        metadata={"description": "Tokens in a window, question included; less where the model takes less."},
    )
    doc_stride = fields.Integer(
        load_default=128,
        validate=validate.Range(min=0),
        metadata={"description": "Tokens that two windows share; more than half a window counts as half."},
    )
    max_answer_len = fields.Integer(
        load_default=15, validate=validate.Range(min=1), metadata={"description": "Longest answer, tokens."}
    )


class Pipeline(BasePipeline):
    """Cuts contexts into windows, scores all of a batch's windows, and picks each input's best answer."""

    route = "/qa"
    task = "question-answering"
    checkpoint = "distilbert-base-cased-distilled-squad"
    summary = "Find the answer to a question in a text."
    example = {"context": "My name is Rob and I live in Bristol.", "question": "Where does Rob live?"}
    Input, Output, Options = QuestionAnsweringInput, QuestionAnsweringOutput, QuestionAnsweringOptions

    def __call__(self, batch: List[Dict[str, Any]]) -> List[Any]:
        """Answer each question; one that does not fit its window, or a context with too many windows, fails alone."""
        answers: List[Any] = [self._windows(inputs) for inputs in batch]
        rows = [(item, window) for item, found in enumerate(answers) if isinstance(found, list) for window in found]
        scored: Dict[int, Any] = dict(forward.forward(self.engine, [window.row for _, window in rows]))
        for item, inputs in enumerate(batch):
            if isinstance(answers[item], list):
                outputs = [(window, scored[number]) for number, (owner, window) in enumerate(rows) if owner == item]
                answers[item] = self._answer(inputs["context"], outputs)
        return answers

    @classmethod
    def size(cls, inputs: Mapping[str, Any]) -> int:
        """Estimate the tokens of all windows: a quarter of the characters; question and overlap count in each."""
        question, context = (len(inputs[name]) // 4 for name in ("question", "context"))
        step = max(64, 384 - 128 - question)
        return 3 + question + context + (max(0, context + question - 384) // step) * (128 + question)

    @classmethod
    def shapes(cls, options: Mapping[str, Any]) -> Mapping[str, int]:
        """Return the length of a window."""
        return {"length": options["max_seq_len"]}

    def _windows(self, inputs: Mapping[str, Any]) -> Any:
        """Return the windows of one input, or the `InvalidInput` that says what to do."""
        length = forward.length_limit(self.engine, self.options["max_seq_len"])
        stride = min(length // 2, self.options["doc_stride"])
        try:
            found = spans.windows(self.engine.tokenizer, inputs["question"], inputs["context"], length, stride)
        except InvalidInput as error:
            return error
        if len(found) > self.options["max_windows"]:
            text = "The context needs {} windows of {} tokens; shorten it, or the question, until {} suffice."
            return InvalidInput(text.format(len(found), length, self.options["max_windows"]))
        return found

    def _answer(self, context: str, outputs: List[Any]) -> Dict[str, Any]:
        """Return the best answer as the route gives it."""
        answer = spans.best(context, outputs, self.options["max_answer_len"])
        return {"results": answer.text, "score": answer.score}
