"""Make `pipelines.json`: what the question-answering and summarization pipelines of Transformers 4.57.6 answer.

Run once, from the repository's root, where that version is installed: `python -m tests.golden.make_golden`. Version 5
has no such pipelines. The checkpoints are the tiny ones of `tests/models/tiny.py`, which the tests build again.
"""

import json
import pathlib
import tempfile

import transformers

from tests.models import tiny

RESULTS = pathlib.Path(__file__).with_name("pipelines.json")
TOWER = (
    "The tower is 324 metres tall, about the same height as an 81-storey building. It was finished in 1889 in Paris."
)
LONG = " ".join("{} Rob number {} was in Bristol in {}.".format(TOWER, number, 1889 + number) for number in range(6))
HEBREW = "שרה גרה בתל אביב. המגדל נבנה בשנת 1889 (בפריז)."
ARABIC = "بنيت المدينة سنة 1889، وسكنها سلام وتاسين."
EMOJI = "Rob 👩‍👩‍👧‍👦 lives in 🇫🇷 with a 👍🏽 and a *️⃣ key, e\u0301clair and nai\u0308ve cafés. He eats 🍕🍕🍕!"
QUESTIONS = [
    {"context": "My name is Rob and I live in Bristol.", "question": "Where does Rob live?"},
    {"context": TOWER, "question": "How tall is the tower?"},
    {"context": TOWER, "question": "When was it finished?"},
    {"context": LONG, "question": "Who was in Bristol in 1891?"},
    {"context": LONG, "question": "What?"},
    {
        "context": LONG + " " + EMOJI + " " + LONG,
        "question": "How tall is the tower, and who of the many people named Rob eats?",
    },
    {"context": HEBREW, "question": "איפה המגדל?"},
    {"context": HEBREW * 6, "question": "Where is the tower?"},
    {"context": ARABIC * 5, "question": "متى؟"},
    {"context": EMOJI, "question": "What does Rob eat?"},
    {"context": EMOJI * 5, "question": "Where 🇫🇷?"},
    {"context": "東京は大きい。大阪も大きい。" * 12, "question": "大きいか"},
    {"context": "a", "question": "b"},
    {"context": "?!... --- ***", "question": "What?"},
    {"context": "Tower tower TOWER the tower, a tower.", "question": "tower"},
    {"context": "one\ttwo\r\nthree\n\n  four  ", "question": "three?"},
    {"context": "antidisestablishmentarianism" * 3 + " is a word", "question": "What is a word?"},
    {"context": "x" * 150 + " and " + "y" * 99, "question": "x?"},
]
TEXTS = [TOWER, LONG, "Rob", HEBREW, EMOJI, "in the tower " * 40, "?", " spaces   and\ttabs\n"]


def answers(folder: str) -> list:
    """Return the old pipeline's answer to each question."""
    pipe = transformers.pipeline("question-answering", model=folder, tokenizer=folder, device=-1)
    return [dict(pipe(**inputs)) for inputs in QUESTIONS]


def summaries(folder: str, beams: int) -> list:
    """Return the old pipeline's summary of each text."""
    pipe = transformers.pipeline("summarization", model=folder, tokenizer=folder, device=-1)
    return [pipe(text, truncation=True, num_beams=beams, max_new_tokens=20)[0]["summary_text"] for text in TEXTS]


def main() -> None:
    """Write the results."""
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        bart = tiny.bart(root / "bart")
        results = {
            "transformers": transformers.__version__,
            "questions": QUESTIONS,
            "distilbert": answers(tiny.distilbert(root / "distilbert")),
            "bert": answers(tiny.bert(root / "bert")),
            "texts": TEXTS,
            "summaries": {str(beams): summaries(bart, beams) for beams in (1, 3)},
        }
    RESULTS.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
