"""Serves model files of the older shapes unchanged, and builds the pipeline of a file of any shape.

An older file holds a bare `class Pipeline`, or a module-level `pipe` with a function `compile(pipe)`; it loads its own
weights, takes one JSON object and gives one. Its code runs in replicas only. The web side reads `OlderPipeline` for the
schemas.
"""

import sys
from typing import Any, Dict, List, Mapping

from ipu_supervisor.models.base import AnyObject, BasePipeline
from ipu_supervisor.models.catalog import ModelFile, ModelFileError, Shape


class OlderPipeline(BasePipeline):
    """An older file's model behind the interface of the newer ones.

    Nothing is known of it, so equal inputs run twice.
    """

    deterministic = False
    summary = "A model file of the older shape: any JSON object in, a JSON object out."
    Input, Output = AnyObject, AnyObject

    def __init__(self, file: ModelFile) -> None:
        """Import the file, and make its model. Raises `ModelFileError`."""
        super().__init__(None, {})
        folder = str(file.path.parent.absolute())
        if folder not in sys.path:
            sys.path.append(folder)
        module = file.module()
        self._model, self._compile = _bare_class(module) if file.shape is Shape.BARE_CLASS else _bare_pipe(module)

    def __call__(self, batch: List[Dict[str, Any]]) -> List[Any]:
        """Answer the inputs one by one; what the model raises on one fails that one alone."""
        return [self._answer(inputs) for inputs in batch]

    def compile(self) -> None:
        """Let the file prepare its model, if it has a way to."""
        self._compile()

    def _answer(self, inputs: Mapping[str, Any]) -> Any:
        """Answer one input, or return what went wrong."""
        try:
            answer = self._model(dict(inputs))
        except Exception as error:  # noqa: BLE001  # a model file may raise anything
            return error
        return (
            answer if isinstance(answer, dict) else TypeError("the model gave no JSON object: {}".format(type(answer)))
        )


def _bare_class(module: Any) -> Any:
    """Return a new `Pipeline` and its `compile`."""
    model = module.Pipeline()
    return model, getattr(model, "compile", lambda: None)


def _bare_pipe(module: Any) -> Any:
    """Return the module's `pipe` and its `compile(pipe)`."""
    if not (callable(module.pipe) and callable(module.compile)):
        raise ModelFileError("{}: pipe and compile must both be callable".format(module.__file__))
    return module.pipe, lambda: module.compile(module.pipe)


def pipeline_for(file: ModelFile, engine: Any, options: Mapping[str, Any]) -> BasePipeline:
    """Return the pipeline of a model file of any shape; older ones get neither engine nor options.

    Raises `ModelFileError`.
    """
    if file.shape is Shape.PIPELINE:
        return file.load()(engine, options)
    return OlderPipeline(file)
