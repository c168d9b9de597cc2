"""Files of the older shapes serve unchanged."""

import pytest

from ipu_supervisor.models import catalog, older

BARE_CLASS = """
import threading
class Pipeline:
    def __init__(self):
        self.calls = []
    def __call__(self, inputs):
        self.calls.append(inputs)
        if inputs.get("bad"):
            raise ValueError("bad input")
        return {"results": inputs["text"].upper(), "calls": len(self.calls)}
    def compile(self):
        self({"text": "compile"})
"""
BARE_PIPE = """
class SummarizationPipeline:
    compiled = False
    def __call__(self, input_dict):
        return {"summary": input_dict["documents"][:3], "compiled": self.compiled}
def compile(pipe: SummarizationPipeline):
    pipe.compiled = True
    return
pipe = SummarizationPipeline()
"""
#: As Graphcore's own README shows a new model.
BOTH = """
args = "given"
class Pipeline:
    made = 0
    def __init__(self, args):
        self.args, self.compiled = args, False
        Pipeline.made += 1
    def __call__(self, inputs):
        return {"args": self.args, "compiled": self.compiled, "made": self.made}
def compile(pipe):
    pipe.compiled = True
pipe = Pipeline(args)
"""


@pytest.fixture
def serve(tmp_path):
    def serve(source):
        (tmp_path / "mine.py").write_text(source, encoding="utf-8")
        return older.pipeline_for(catalog.find("mine", [tmp_path]), None, {})

    return serve


def test_a_bare_class_answers_item_by_item_after_its_compile(serve):
    pipeline = serve(BARE_CLASS)
    pipeline.compile()
    assert pipeline([{"text": "a"}, {"text": "b"}]) == [{"results": "A", "calls": 2}, {"results": "B", "calls": 3}]


def test_a_file_that_makes_its_pipe_of_its_own_class_serves_that_pipe(serve):
    pipeline = serve(BOTH)
    pipeline.compile()
    assert pipeline([{}, {}]) == [{"args": "given", "compiled": True, "made": 1}] * 2


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_that_json_does_not_have_is_no_answer(serve, number):
    pipeline = serve("class Pipeline:\n    def __call__(self, inputs):\n        return inputs\n")
    for answer in pipeline([{"a": [{"b": float(number)}]}, {"a": float(number)}]):
        assert "no number in JSON" in str(pipeline.Output().validate(answer))
    assert pipeline.Output().validate({"a": [1.5, {"b": 1e308}, "nan"]}) == {}


def test_an_item_that_raises_fails_alone(serve):
    first, second, third = serve(BARE_CLASS)([{"text": "a"}, {"bad": True}, {"text": "c"}])
    assert (first["results"], third["results"]) == ("A", "C")
    assert isinstance(second, ValueError)


def test_a_bare_class_needs_no_compile(serve):
    pipeline = serve("class Pipeline:\n    def __call__(self, inputs):\n        return inputs\n")
    pipeline.compile()
    assert pipeline([{"a": [1, {"b": None}]}]) == [{"a": [1, {"b": None}]}]


def test_a_bare_pipe_is_compiled_by_its_function(serve):
    pipeline = serve(BARE_PIPE)
    pipeline.compile()
    assert pipeline([{"documents": "abcdef"}]) == [{"summary": "abc", "compiled": True}]


def test_an_answer_that_is_no_object_fails_its_item(serve):
    [answer] = serve("class Pipeline:\n    def __call__(self, inputs):\n        return [1]\n")([{}])
    assert isinstance(answer, TypeError)


def test_the_model_cannot_change_the_callers_input(serve):
    inputs = {"a": 1}
    serve("class Pipeline:\n    def __call__(self, inputs):\n        inputs.clear()\n        return {}\n")([inputs])
    assert inputs == {"a": 1}


def test_a_file_may_import_what_lies_beside_it(serve, tmp_path):
    (tmp_path / "beside_older_file.py").write_text("WORD = 'found'\n")
    source = (
        "import beside_older_file as b\nclass Pipeline:\n    def __call__(self, x):\n        return {'w': b.WORD}\n"
    )
    assert serve(source)([{}]) == [{"w": "found"}]


@pytest.mark.parametrize("source", ["pipe = 1\ndef compile(pipe): pass\n", "1 / 0\nclass Pipeline: pass\n"])
def test_a_file_that_cannot_serve_says_so(serve, source):
    with pytest.raises(catalog.ModelFileError, match=r"mine\.py"):
        serve(source)


def test_any_json_object_passes_the_schemas():
    inputs = {"text": "x", "n": [1, 2.5, None, {"deep": True}]}
    assert older.OlderPipeline.Input().load(inputs) == inputs
    assert older.OlderPipeline.Output().load(inputs) == inputs


def test_a_newer_file_gets_its_engine_and_options():
    file = catalog.find("embeddings")
    pipeline = older.pipeline_for(file, "engine", {"max_tokens": 8})
    assert (pipeline.engine, pipeline.options) == ("engine", {"max_tokens": 8})
