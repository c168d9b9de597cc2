"""Tiny checkpoints that any library version builds alike: fixed vocabularies, weights from NumPy's frozen generator by
name and shape.

Used by the tests and by `tests/golden/make_golden.py`, which runs them through Transformers 4.57.6.
"""

import json
import pathlib
from typing import Dict, List, Tuple

import numpy
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

#: Sizes of every tiny model.
WIDTH, LAYERS, HEADS, INNER = 32, 2, 4, 64
#: Longest rows, tokens.
BERT_POSITIONS, BART_POSITIONS = 128, 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = (
    "the of and in is was a to who what where when tower bristol rob name live ##s ##ed ##ing ##er ##tion 1889 324"
).split()
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789éüßñאבגדהמרשתابتسلمن東京大阪かきくけこяжд"
SIGNS = ".,!?;:'\"()-–—*#&%$€@/\\"

Shapes = Dict[str, Tuple[int, ...]]


def distilbert(folder: pathlib.Path) -> str:
    """Write a cased DistilBERT for question answering."""
    vocabulary = _word_pieces(folder, lowercase=False, name="DistilBertTokenizer")
    config = {
        "model_type": "distilbert",
        "architectures": ["DistilBertForQuestionAnswering"],
        "dim": WIDTH,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_dim": INNER,
    }
    shapes: Shapes = {
        "distilbert.embeddings.word_embeddings.weight": (vocabulary, WIDTH),
        "distilbert.embeddings.position_embeddings.weight": (BERT_POSITIONS, WIDTH),
        **_norm("distilbert.embeddings.LayerNorm"),
        **_dense("qa_outputs", WIDTH, 2),
    }
    for layer in range(LAYERS):
        prefix = "distilbert.transformer.layer.{}.".format(layer)
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            shapes.update(_dense(prefix + "attention." + name, WIDTH, WIDTH))
        shapes.update(_dense(prefix + "ffn.lin1", WIDTH, INNER))
        shapes.update(_dense(prefix + "ffn.lin2", INNER, WIDTH))
        shapes.update(_norm(prefix + "sa_layer_norm"))
        shapes.update(_norm(prefix + "output_layer_norm"))
    return _write(
        folder,
        {**config, "vocab_size": vocabulary, "max_position_embeddings": BERT_POSITIONS, "pad_token_id": 0},
        shapes,
    )


def bert(folder: pathlib.Path) -> str:
    """Write an uncased BERT, with token types, for question answering."""
    return _bert(folder, "BertForQuestionAnswering", "bert.", _dense("qa_outputs", WIDTH, 2))


def encoder(folder: pathlib.Path) -> str:
    """Write an uncased BERT without a head, as sentence encoders are stored."""
    return _bert(folder, "BertModel", "", {})


def _bert(folder: pathlib.Path, architecture: str, root: str, head: Shapes) -> str:
    """Write a BERT whose weights' names begin with `root`."""
    vocabulary = _word_pieces(folder, lowercase=True, name="BertTokenizer")
    config = {
        "model_type": "bert",
        "architectures": [architecture],
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "type_vocab_size": 2,
    }
    shapes: Shapes = {
        root + "embeddings.word_embeddings.weight": (vocabulary, WIDTH),
        root + "embeddings.position_embeddings.weight": (BERT_POSITIONS, WIDTH),
        root + "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **_norm(root + "embeddings.LayerNorm"),
        **head,
    }
    for layer in range(LAYERS):
        prefix = "{}encoder.layer.{}.".format(root, layer)
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes.update(_dense(prefix + name, WIDTH, WIDTH))
        shapes.update(_dense(prefix + "intermediate.dense", WIDTH, INNER))
        shapes.update(_dense(prefix + "output.dense", INNER, WIDTH))
        shapes.update(_norm(prefix + "attention.output.LayerNorm"))
        shapes.update(_norm(prefix + "output.LayerNorm"))
    return _write(
        folder,
        {**config, "vocab_size": vocabulary, "max_position_embeddings": BERT_POSITIONS, "pad_token_id": 0},
        shapes,
    )


def bart(folder: pathlib.Path) -> str:
    """Write a BART with the generation settings of bart-large-cnn, scaled down."""
    vocabulary = _byte_pairs(folder)
    config = {
        "model_type": "bart",
        "architectures": ["BartForConditionalGeneration"],
        "d_model": WIDTH,
        "prefix": " ",
        "scale_embedding": False,
        "is_encoder_decoder": True,
    }
    for side in ("encoder", "decoder"):
        config.update({side + "_layers": LAYERS, side + "_attention_heads": HEADS, side + "_ffn_dim": INNER})
    tokens = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    forced = {"forced_bos_token_id": 0, "forced_eos_token_id": 2}
    search = {
        "num_beams": 4,
        "max_length": 40,
        "min_length": 6,
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
    }
    (folder / "generation_config.json").write_text(json.dumps({**tokens, **forced, **search}))
    shapes: Shapes = {"model.shared.weight": (vocabulary, WIDTH), "final_logits_bias": (1, vocabulary)}
    for side in ("encoder", "decoder"):
        shapes.update(_bart_side(side))
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": BART_POSITIONS}
    return _write(folder, {**config, **tokens, **sizes}, shapes)


def _bart_side(side: str) -> Shapes:
    """Return the shapes of BART's encoder or decoder."""
    shapes: Shapes = {
        "model.{}.embed_positions.weight".format(side): (BART_POSITIONS + 2, WIDTH),
        **_norm("model.{}.layernorm_embedding".format(side)),
    }
    attentions = ["self_attn"] + ["encoder_attn"] * (side == "decoder")
    for layer in range(LAYERS):
        prefix = "model.{}.layers.{}.".format(side, layer)
        for attention in attentions:
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes.update(_dense("{}{}.{}".format(prefix, attention, name), WIDTH, WIDTH))
            shapes.update(_norm(prefix + attention + "_layer_norm"))
        shapes.update(_dense(prefix + "fc1", WIDTH, INNER))
        shapes.update(_dense(prefix + "fc2", INNER, WIDTH))
        shapes.update(_norm(prefix + "final_layer_norm"))
    return shapes


def _dense(name: str, width: int, out: int) -> Shapes:
    """Return the shapes of a dense layer."""
    return {name + ".weight": (out, width), name + ".bias": (out,)}


def _norm(name: str) -> Shapes:
    """Return the shapes of a layer norm."""
    return {name + ".weight": (WIDTH,), name + ".bias": (WIDTH,)}


def _write(folder: pathlib.Path, config: Dict[str, object], shapes: Shapes) -> str:
    """Write the configuration and the weights: drawn in the order of their names, the answer head made decided."""
    (folder / "config.json").write_text(json.dumps(config))
    draw = numpy.random.RandomState(20240917)
    weights = {}
    for name in sorted(shapes):
        array = draw.normal(0.0, 0.3, shapes[name]).astype(numpy.float32)
        is_norm = name.lower().endswith(("norm.weight", "layernorm_embedding.weight"))
        weights[name] = (
            array + numpy.float32(1.0)
            if is_norm
            else array * numpy.float32(6.0 if name == "qa_outputs.weight" else 1.0)
        )
    if "final_logits_bias" in weights:
        weights["final_logits_bias"] *= numpy.float32(0.0)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return str(folder)


def _word_pieces(folder: pathlib.Path, lowercase: bool, name: str) -> int:
    """Write a WordPiece tokenizer as the hub's BERT checkpoints have it; return its size."""
    letters = LETTERS.lower() if lowercase else LETTERS
    singles = sorted(set(letters))
    vocabulary: List[str] = [*SPECIAL, *PIECES, *SIGNS, *singles, *("##" + letter for letter in singles)]
    ids = {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": name, "do_lower_case": lowercase, "model_max_length": BERT_POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(ids)


def _byte_pairs(folder: pathlib.Path) -> int:
    """Write a byte-level BPE tokenizer as the hub's BART checkpoints have it; return its size."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("Ġ", "a"),
        ("i", "n"),
        ("e", "r"),
        ("o", "w"),
        ("ow", "er"),
        ("Ġ", "t"),
        ("Ġ", "in"),
    ]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *(left + right for left, right in merges), "<mask>"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join("{} {}\n".format(*pair) for pair in merges))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BartTokenizer", "model_max_length": BART_POSITIONS})
    )
    return len(ids)
