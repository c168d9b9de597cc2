"""The rules for a model's place on IPUs: each broken one is named, with the fix."""

import pytest

from ipu_supervisor import layout

BART = {"model_type": "bart", "encoder_layers": 12, "decoder_layers": 12}
DISTILBERT = {"model_type": "distilbert", "n_layers": 6, "vocab_size": 28996}
ENTRY = {"dtype": "auto", "max_batch_size": None, "max_batch_tokens": None}
QA, SUMMARIZATION, EMBEDDING = "question-answering", "summarization", "sentence-embedding"
SHAPES = {QA: {"length": 384}, SUMMARIZATION: {"length": 500, "num_beams": 3, "max_new_tokens": 100}}


def complete(task=QA, **ipu):
    return layout.complete(layout.IpuSchema().load(ipu), task)


def faults(task=QA, entry=None, **ipu):
    return "\n".join(layout.faults(complete(task, **ipu), task, {**ENTRY, **(entry or {})}, SHAPES[task]))


def schema_faults(**ipu):
    return str(layout.IpuSchema().validate(ipu))


# ---- what can be told without the checkpoint -------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_recipes():
    qa, summarization = complete(QA), complete(SUMMARIZATION)
    assert (qa["ipus"], qa["matmul_proportion"], layout.need(qa)) == (1, 0.2, 1)
    assert (summarization["ipus"], summarization["matmul_proportion"], layout.need(summarization)) == (2, 0.15, 2)
    assert layout.plan(summarization, layout.layers(BART, SUMMARIZATION)) == [12, 12]
    assert faults(QA) == faults(SUMMARIZATION) == ""


@pytest.mark.parametrize("ipus", ["two", 0, -2, True, 1.5, 65, 128])
def test_a_number_of_ipus_that_is_none_is_refused(ipus):
    assert "ipus" in schema_faults(ipus=ipus)


@pytest.mark.parametrize(("ipus", "higher"), [(3, 4), (5, 8), (63, 64)])
def test_ipus_come_in_powers_of_two(ipus, higher):
    assert "Must be a power of two" in schema_faults(ipus=ipus)
    assert "{} would hold {}".format(higher, ipus) in schema_faults(ipus=ipus)
    assert "Must be a power of two" in schema_faults(replication=ipus)


def test_layers_on_three_ipus_are_refused_too():
    assert "must be a power of two" in faults(layers_per_ipu=[2, 2, 2])


def test_generation_needs_ipus_for_encoder_and_decoder():
    assert "set 2 or more" in faults(SUMMARIZATION, ipus=1)
    assert "set 2 or more" in faults(SUMMARIZATION, layers_per_ipu=[24])


def test_generation_is_not_replicated():
    assert "`replicas`" in faults(SUMMARIZATION, replication=2)
    assert faults(QA, replication=2) == ""


def test_one_process_has_a_limit():
    assert "at most 64" in faults(ipus=32, replication=4)


@pytest.mark.parametrize("name", ["layers_per_ipu", "matmul_proportion"])
def test_lists_have_one_number_for_each_ipu(name):
    value = [0.1] * 3 if name == "matmul_proportion" else [1, 1, 1]
    assert "ipu.{}: has 3 numbers for 2 IPUs".format(name) in faults(ipus=2, **{name: value})


@pytest.mark.parametrize("value", [0, 1.5, -0.1, "0.2", [], [0.2, 0], True])
def test_a_share_of_memory_is_a_share(value):
    assert "matmul_proportion" in schema_faults(matmul_proportion=value)


def test_an_ipu_has_no_bfloat16():
    assert "use auto (float16) or float32" in faults(entry={"dtype": "bfloat16"})


def test_a_batch_of_another_size_than_the_compiled_one_is_refused():
    assert "compiled for ipu.batch_size x ipu.replication = 1" in faults(entry={"max_batch_size": 4})
    assert faults(entry={"max_batch_size": 4}, batch_size=2, replication=2) == ""
    assert "set ipu.batch_size" in faults(entry={"max_batch_tokens": 1000})


@pytest.mark.parametrize(
    ("name", "value", "right", "why"),
    [
        ("num_beams", 4, 3, "options.num_beams = 3"),
        ("max_length", 142, 101, "options.max_new_tokens + 1 (the start token) = 101"),
        ("batch_size", 2, 1, "ipu.batch_size = 1"),
    ],
)
def test_a_search_that_differs_from_the_compiled_one_is_refused(name, value, right, why):
    assert why in faults(SUMMARIZATION, inference_parallelize_kwargs={name: value})
    assert faults(SUMMARIZATION, inference_parallelize_kwargs={name: right}) == ""


def test_unknown_names_are_refused():
    assert "Unknown field" in schema_faults(inference_parallelize_kwargs={"on_device_generation_steps": 8})
    assert "Unknown field" in schema_faults(layers=[3, 3])


@pytest.mark.parametrize("name", ["use_cache", "use_encoder_output_buffer"])
def test_what_is_on_or_off_is_no_other_text(name):
    settings = layout.IpuSchema().load({"inference_parallelize_kwargs": {name: "no"}})
    assert settings["inference_parallelize_kwargs"] == {name: False}
    assert "Not a valid boolean" in schema_faults(inference_parallelize_kwargs={name: "perhaps"})


def test_a_model_file_without_lengths_cannot_be_compiled():
    assert "no `shapes(options)`" in layout.faults(complete(), QA, ENTRY, {})[0]


# ---- what the checkpoint's configuration tells -----------------------------------------------------------------------


@pytest.mark.parametrize(("plan", "total"), [([3, 2], 5), ([4, 3], 7)])
def test_layers_that_do_not_add_up_are_refused(plan, total):
    found = layout.layer_faults(complete(layers_per_ipu=plan), DISTILBERT, QA)
    assert found == [
        "ipu.layers_per_ipu: {} adds up to {}, but the checkpoint has 6 layers; make them add up".format(plan, total)
    ]


@pytest.mark.parametrize(
    ("task", "config", "plan", "layers"),
    [
        (QA, DISTILBERT, [7, -1], "6"),
        (QA, DISTILBERT, [-1, 7], "6"),
        (QA, DISTILBERT, [-1, 7, -1, -1], "6"),
        (SUMMARIZATION, BART, [13, -1, 6, 6], "12 + 12"),
        (SUMMARIZATION, BART, [1, 1, -1, 13], "12 + 12"),
    ],
)
def test_numbers_that_leave_an_even_share_nothing_are_refused(task, config, plan, layers):
    found = layout.layer_faults(complete(task, layers_per_ipu=plan), config, task)
    text = "ipu.layers_per_ipu: {} leaves less than 0 of the checkpoint's {} layers for -1; lower the other numbers"
    assert found == [text.format(plan, layers)]


@pytest.mark.parametrize("plan", [[10, 14], [6, 6, 6, 6, 0, 0, 0, 0]])
def test_encoder_and_decoder_share_no_ipu(plan):
    found = layout.layer_faults(complete(SUMMARIZATION, layers_per_ipu=plan), BART, SUMMARIZATION)
    assert "does not part the encoder's 12 layers from the decoder's 12" in found[0]


@pytest.mark.parametrize(
    ("kind", "task", "there_are"),
    [
        ("modernbert", QA, "bert, deberta, distilbert, roberta"),
        ("mt5", SUMMARIZATION, "bart, t5"),
        ("distilbert", EMBEDDING, "bert, mpnet"),
    ],
)
def test_an_architecture_without_a_layout_is_refused(kind, task, there_are):
    found = layout.checkpoint_faults(complete(task), {}, {"model_type": kind}, task)
    assert found == ["device: optimum-graphcore lays out no {!r} for {}; it has: {}".format(kind, task, there_are)]


@pytest.mark.parametrize(("parts", "fewer"), [(3, 2), (10, 4), (30_000, 28996)])
def test_the_embeddings_parts_are_equal(parts, fewer):
    found = layout.checkpoint_faults(complete(embedding_serialization_factor=parts), {}, DISTILBERT, QA)
    assert found == [
        "ipu.embedding_serialization_factor: {} does not divide the vocabulary of 28996; set {}".format(parts, fewer)
    ]
    assert layout.checkpoint_faults(complete(embedding_serialization_factor=fewer), {}, DISTILBERT, QA) == []


def test_an_embedding_that_optimum_does_not_cut_is_not_said_to_be():
    config = {"model_type": "mpnet", "num_hidden_layers": 6, "vocab_size": 30}
    assert layout.checkpoint_faults(complete(EMBEDDING), {}, config, EMBEDDING) == []
    cut = complete(EMBEDDING, embedding_serialization_factor=2)
    assert "does not cut the embedding of 'mpnet'" in layout.checkpoint_faults(cut, {}, config, EMBEDDING)[0]


def test_a_summary_may_be_as_long_as_the_decoder_has_positions():
    config, ipu = {**BART, "max_position_embeddings": 100}, complete(SUMMARIZATION)
    assert layout.checkpoint_faults(ipu, SHAPES[SUMMARIZATION], config, SUMMARIZATION) == []
    longer = {**SHAPES[SUMMARIZATION], "max_new_tokens": 101}
    found = layout.checkpoint_faults(ipu, longer, config, SUMMARIZATION)
    assert found == ["options.max_new_tokens: 101, but the checkpoint's decoder has 100 positions; lower it"]


def test_only_a_model_that_generates_takes_arguments_of_generation():
    assert "leave it out" in faults(QA, inference_parallelize_kwargs={"num_beams": 3})
    assert faults(SUMMARIZATION, inference_parallelize_kwargs={"num_beams": 3}) == ""


@pytest.mark.parametrize(
    ("ipu", "plan"),
    [
        ({}, [6]),
        ({"ipus": 2}, [3, 3]),
        ({"ipus": 4}, [1, 1, 2, 2]),
        ({"layers_per_ipu": [0, -1, -1, 1]}, [0, 2, 3, 1]),
        ({"layers_per_ipu": [2, 4]}, [2, 4]),
    ],
)
def test_layers_are_spread_evenly_unless_they_are_placed(ipu, plan):
    assert layout.plan(complete(**ipu), layout.layers(DISTILBERT, QA)) == plan
    assert layout.layer_faults(complete(**ipu), DISTILBERT, QA) == []


def test_a_decoder_of_another_depth_gets_its_own_share():
    config = {"model_type": "bart", "encoder_layers": 12, "decoder_layers": 6}
    ipu = complete(SUMMARIZATION, ipus=4)
    assert layout.plan(ipu, layout.layers(config, SUMMARIZATION)) == [6, 6, 3, 3]
    assert layout.layer_faults(ipu, config, SUMMARIZATION) == []


def test_t5_tells_its_layers_in_its_own_words():
    config = {"model_type": "t5", "num_layers": 6}
    assert layout.layers({**config, "num_decoder_layers": None}, SUMMARIZATION) == (6, 6)
    assert layout.layers({**config, "num_decoder_layers": 2}, SUMMARIZATION) == (6, 2)


def test_a_folder_without_a_configuration_has_none(tmp_path):
    assert layout.configuration(tmp_path) is None
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert layout.configuration(tmp_path) is None
