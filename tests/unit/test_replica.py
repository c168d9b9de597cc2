"""What a replica makes of what a model raises: what the operator's log tells, and what the supervisor is told."""

import logging

import msgspec
import pytest

from ipu_supervisor import replica
from ipu_supervisor.engines.base import Engine
from ipu_supervisor.engines.faults import DeviceFault
from ipu_supervisor.engines.hub import CheckpointError, HubUnreachable
from ipu_supervisor.models.base import AnyObject, BasePipeline, InvalidInput
from ipu_supervisor.models.catalog import ModelFileError
from ipu_supervisor.protocol import messages
from ipu_supervisor.protocol.errors import ErrorCode
from tests.unit.histories import History


def multiply(text):
    """Raise what a model file may."""
    return text * text


def refuse(text):
    """Say that an input is bad."""
    raise InvalidInput("shorter, please")


def answering(compute):
    """Return a loaded model that returns what `compute` raises, as older model files do."""

    def pipeline(batch):
        try:
            return [compute(inputs["text"]) for inputs in batch]
        except Exception as error:  # noqa: BLE001
            return [error]

    return replica.Model(pipeline, AnyObject)


@pytest.mark.parametrize(
    ("compute", "code", "level"),
    [(multiply, ErrorCode.MODEL_ERROR, logging.ERROR), (refuse, ErrorCode.INVALID_INPUT, logging.INFO)],
)
def test_an_input_that_fails_alone_is_logged_with_a_traceback_unless_it_is_to_blame(caplog, compute, code, level):
    run = messages.Run(1, [msgspec.Raw(messages.encode({"text": "x"}))], ["request 7"])
    with caplog.at_level(logging.DEBUG):
        done = answering(compute).run(run)
    assert [outcome.failure.code for outcome in done.outcomes] == [code]
    (record,) = caplog.records
    assert (record.levelno, record.fields["request_id"]) == (level, "request 7")
    assert ("in multiply" in caplog.text) == (code is ErrorCode.MODEL_ERROR)


@pytest.mark.parametrize("returned", [True, False], ids=["returned", "raised"])
def test_a_device_that_an_older_file_met_with_is_the_end_of_its_replica(returned):
    def compute(text):
        raise DeviceFault("LINK_RESET", "links are down")

    def pipeline(batch):
        return [compute("x")]

    model = answering(compute) if returned else replica.Model(pipeline, AnyObject)
    with pytest.raises(DeviceFault, match="links are down"):
        model.run(messages.Run(1, [msgspec.Raw(messages.encode({"text": "x"}))], ["request 7"]))


# ---- the warm-up -----------------------------------------------------------------------------------------------------


class Compiled(Engine):
    """Needs programs, of which its cache holds and a warm-up builds what is told."""

    def __init__(self, needed, found, after, built):
        self.needed, self.counts, self._built = needed, [found, after], built

    def programs(self):
        return self.needed, self.counts.pop(0)

    def built(self):
        return self._built


def warmed_up(engine=None, answer=None):
    """Return what becomes of a model that answers its example so."""

    class Pipeline(BasePipeline):
        def __call__(self, batch):
            return [answer] * len(batch)

    return replica.Model(Pipeline(engine, {}), AnyObject).compile()


@pytest.mark.parametrize("error", [DeviceFault("BUSY", "others have them"), ValueError("wrong shape")])
def test_what_comes_in_place_of_the_examples_answer_ends_the_warm_up(error):
    with pytest.raises(type(error), match=str(error)):
        warmed_up(answer=error)


def test_a_model_that_refuses_its_own_example_is_not_tried_again():
    with pytest.raises(ModelFileError, match=r"refuses its own example \(shorter, please\); change its opt") as raised:
        warmed_up(answer=InvalidInput("shorter, please"))
    assert replica._unable(raised.value).final


@pytest.mark.parametrize("built", [0, 1])
def test_a_model_that_left_programs_to_be_compiled_by_a_request_is_not_ready(built):
    with pytest.raises(ModelFileError, match="ran {} of the 2 programs".format(built)):
        warmed_up(Compiled(needed=2, found=0, after=built, built=built))


@pytest.mark.parametrize(
    ("needed", "found", "after", "told"),
    [
        (2, 0, 2, (2, 0)),
        (2, 5, 5, (0, 2)),
        (2, 1, 2, (1, 1)),
        (1, 0, 3, (1, 0)),
        (1, 0, 0, (0, 0)),
        (1, 3, 0, (0, 0)),
    ],
    ids=["compiled", "found", "one of each", "others' too", "not kept", "no longer kept"],
)
def test_programs_are_compiled_or_found_by_the_files_and_neither_where_none_is_kept(needed, found, after, told):
    assert warmed_up(Compiled(needed, found, after, built=needed), answer={}) == told


# ---- what the supervisor is told -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "starts"), [(HubUnreachable("no answer"), 20), (CheckpointError("none"), 1), (OSError("odd"), 5)]
)
def test_a_hub_out_of_reach_is_waited_for_without_end_and_nothing_else(error, starts):
    history, started = History(), 0
    while history.alive and started < 20:
        name = history.alive[0]
        history.says(name, replica._unable(error))
        history.dies(name, "exited with code {}".format(replica.EXIT_UNABLE))
        history.pass_time(60)
        started += 1
    assert started == starts
