"""Scores a shipped adapter on a test file: normalised exact match and F1, as SQuAD defines them.

python -m training.question_answering.evaluate tests/golden/qa_paragraphs.json [--adapter FILE] [--wrong]
"""

import argparse
import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, List, Tuple

from transformers import AutoTokenizer

from ipu_supervisor.engines import demo
from ipu_supervisor.engines.checkpoints import Source
from ipu_supervisor.engines.torch_engine import TorchEngine
from ipu_supervisor.models.question_answering import Pipeline

Answerer = Callable[[str, str], str]


def normalise(text: str) -> List[str]:
    """Lower case, no punctuation, no articles."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1(given: str, wanted: str) -> float:
    """Token overlap of two answers."""
    a, b = normalise(given), normalise(wanted)
    same = sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b)) if same else 0.0


def score(given: str, accepted: List[str]) -> Tuple[float, float]:
    """Exact match and F1 against the best accepted answer."""
    exact = float(any(normalise(given) == normalise(wanted) for wanted in accepted))
    return exact, max(f1(given, wanted) for wanted in accepted)


def answerer(adapter: Path) -> Answerer:
    """The server's own way from (question, context) to an answer, with default options."""
    base = demo.base_folder()
    model = demo.question_answering(base, str(adapter))
    source = Source(base, "demo", "", True)
    engine = TorchEngine("question-answering", source, model, AutoTokenizer.from_pretrained(base), "cpu", "float32")
    pipeline = Pipeline(engine, Pipeline.Options().load({}))
    return lambda question, context: pipeline([{"question": question, "context": context}])[0]["results"]


def sections(path: Path) -> Dict[str, List[dict]]:
    """The file's questions by section, each {context, question, answers}."""
    data = json.loads(path.read_text(encoding="utf-8"))
    paragraphs = [{"context": p["context"], **q} for p in data["paragraphs"] for q in p["questions"]]
    return {"paragraphs": paragraphs, "short_forms": data["short_forms"]}


def measure(answer: Answerer, questions: List[dict]) -> Tuple[float, float, List[str]]:
    """Exact match and F1 in percent, and a line for each answer that is not exact."""
    scores, wrong = [], []
    for item in questions:
        given = answer(item["question"], item["context"])
        scores.append(score(given, item["answers"]))
        if not scores[-1][0]:
            wrong.append(f"  {item['question']} -> {given!r}, wanted {item['answers'][0]!r}")
    exact, overlap = (100 * sum(column) / len(scores) for column in zip(*scores))
    return exact, overlap, wrong


def report(adapter: Path, path: Path, show_wrong: bool = False) -> None:
    """Print the scores of each section, and the wrong answers if asked."""
    answer = answerer(adapter)
    for name, questions in sections(path).items():
        exact, overlap, wrong = measure(answer, questions)
        print(f"{path.name} {name}: {len(questions)} questions, exact {exact:.1f} %, F1 {overlap:.1f} %", flush=True)
        if show_wrong:
            print("\n".join(wrong))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--adapter", type=Path, default=Path(demo.QUESTION_ANSWERING_FILE))
    parser.add_argument("--wrong", action="store_true")
    args = parser.parse_args()
    report(args.adapter, args.file, args.wrong)


if __name__ == "__main__":
    main()
