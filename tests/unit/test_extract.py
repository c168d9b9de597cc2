"""Splitting into sentences, and joining them again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipu_supervisor.models import extract


def texts(text):
    return [sentence.text for sentence in extract.split(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four… Five.", ["One.", "Two!", "Three?", "Four…", "Five."]),
        ("Dr. Smith met Mrs. Jones. They talked.", ["Dr. Smith met Mrs. Jones.", "They talked."]),
        ("J. R. R. Tolkien wrote it. He was born in 1892.", ["J. R. R. Tolkien wrote it.", "He was born in 1892."]),
        ("It moved to the U.S. The rest stayed.", ["It moved to the U.S.", "The rest stayed."]),
        ("The U.S. Army came. It left.", ["The U.S. Army came.", "It left."]),
        ("It costs 3.50 in v1.5 now. Buy it.", ["It costs 3.50 in v1.5 now.", "Buy it."]),
        ("See No. 5 and Fig. 3. He said no. Then he left.", ["See No. 5 and Fig. 3.", "He said no.", "Then he left."]),
        ('"Why?" he asked. "Because!" She left.', ['"Why?" he asked.', '"Because!"', "She left."]),
        ("(It rained.) They left.", ["(It rained.)", "They left."]),
        ("She left... and came back... Then it ended.", ["She left... and came back...", "Then it ended."]),
        ("Fruit, e.g. apples, i.e. food. Good.", ["Fruit, e.g. apples, i.e. food.", "Good."]),
        ("At 5 p.m. the bell rang. At 6 p.m. It stopped.", ["At 5 p.m. the bell rang.", "At 6 p.m.", "It stopped."]),
        ("It wraps\nover two lines. So.", ["It wraps over two lines.", "So."]),
        ("Title\n\nFirst paragraph\n\nSecond", ["Title", "First paragraph", "Second"]),
        ("Buy:\n- milk\n- two eggs\n1. First\n2. Second", ["Buy:", "- milk", "- two eggs", "1. First", "2. Second"]),
        ("東京は大きい。大阪も大きい！本当？", ["東京は大きい。", "大阪も大きい！", "本当？"]),
        ("यह है। वह था।", ["यह है।", "वह था।"]),
        ("هل أنت بخير؟ نعم.", ["هل أنت بخير؟", "نعم."]),
        ("Привет, мир! Как дела?", ["Привет, мир!", "Как дела?"]),
        ("... --- ***", []),
        ("", []),
    ],
)
def test_text_is_split_where_its_sentences_end(text, sentences):
    assert texts(text) == sentences


def test_a_transcript_without_full_stops_is_cut_at_white_space():
    pieces = texts("word " * 500)
    assert all(len(piece) <= extract.LONGEST for piece in pieces)
    assert " ".join(pieces) == ("word " * 500).strip()


@given(st.text(alphabet="aB1. !?…。\n\"'-*)\t", max_size=200))
def test_no_letter_is_lost_or_added_and_nothing_grows(text):
    sentences = extract.split(text)
    assert len(extract.join(sentences)) <= len(text)
    kept = [character for character in extract.join(sentences) if character.isalnum()]
    assert kept == [character for character in text if character.isalnum()]


@pytest.mark.parametrize("piece", [".", "a. ", "\n ", '."', "1. ", "\n 1", "字", "("])
@pytest.mark.timeout(10)
def test_a_hundred_thousand_characters_of_anything_are_split_soon(piece):
    assert len(extract.join(extract.split(piece * (100_000 // len(piece))))) <= 100_000


def test_sentences_are_joined_as_they_were_spaced():
    assert extract.join(extract.split("東京。大阪。 Kyoto.  Nara.")) == "東京。大阪。 Kyoto. Nara."
