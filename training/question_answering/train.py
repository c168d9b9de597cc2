"""Trains the demo question-answering adapter on generated text and writes the shipped file.

python -m training.question_answering.train [--examples N] [--threads N] [--out FILE]
"""

import argparse
import itertools
import random
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertForQuestionAnswering

from ipu_supervisor.engines import demo
from training.question_answering import adapter, evaluate
from training.question_answering.generate import Example, Generator

HERE = Path(__file__).parent
#: Rank of the deltas; 48 in float16 makes a 4 MB file.
RANK = 48
#: Chosen on the dev set.
PEAK_RATE, HEAD_RATE, WEIGHT_DECAY = 1e-3, 2e-3, 0.01
BATCH = 16
#: Examples sorted by length within a chunk, so that a batch needs little padding.
CHUNK = BATCH * 32
#: Longest training sequence in tokens; longer examples are dropped.
MAX_TOKENS = 288
#: Few different lengths, since kernels are compiled anew for each (measured: up to 0.3 s a step).
PAD = 32
#: The file is written so often, in steps, that a run that was stopped has not been for nothing.
SAVE_EVERY = 200
Batch = Tuple[dict, torch.Tensor, torch.Tensor]


def encode(tokenizer, examples: List[Example]) -> Batch:
    """Tensors of a batch and the first and last answer token (0: no answer), int64 (batch,)."""
    pairs = tokenizer(
        [e.question for e in examples],
        [e.context for e in examples],
        padding=True,
        pad_to_multiple_of=PAD,
        return_tensors="pt",
    )
    starts = [pairs.char_to_token(i, e.start, 1) if e.start >= 0 else 0 for i, e in enumerate(examples)]
    ends = [pairs.char_to_token(i, e.end - 1, 1) if e.end >= 0 else 0 for i, e in enumerate(examples)]
    return dict(pairs), torch.tensor(starts), torch.tensor(ends)


def batches(tokenizer, examples: Iterator[Example], rng: random.Random) -> Iterator[Batch]:
    """Batches of similar length, in random order within a chunk."""
    while True:
        chunk = sorted(itertools.islice(examples, CHUNK), key=lambda e: len(e.context))
        groups = [chunk[i : i + BATCH] for i in range(0, CHUNK, BATCH)]
        rng.shuffle(groups)
        for group in groups:
            batch = encode(tokenizer, group)
            if batch[0]["input_ids"].shape[1] <= MAX_TOKENS:
                yield batch


def loss_of(model: BertForQuestionAnswering, batch: Batch) -> torch.Tensor:
    """Cross entropy of start and end over the first token and the context's."""
    inputs, starts, ends = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**inputs)
    outside = inputs["token_type_ids"] == 0
    outside[:, 0] = False
    cross = torch.nn.functional.cross_entropy
    start_logits = out.start_logits.float().masked_fill(outside, -1e4)
    end_logits = out.end_logits.float().masked_fill(outside, -1e4)
    return (cross(start_logits, starts) + cross(end_logits, ends)) / 2


def optimizer_of(model: BertForQuestionAnswering, steps: int):
    """AdamW with a short warm-up and a linear fall to zero."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    head = [p for name, p in trained if name.startswith("qa_outputs")]
    body = [p for name, p in trained if not name.startswith("qa_outputs")]
    groups = [{"params": body, "lr": PEAK_RATE}, {"params": head, "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    warm = max(1, steps // 30)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / warm, (steps - s) / (steps - warm)))
    return optimizer, schedule


def train(model: BertForQuestionAnswering, stream: Iterator[Batch], steps: int, out: Path) -> None:
    """Run the steps, printing the mean loss and writing the file now and then and at the end."""
    optimizer, schedule = optimizer_of(model, steps)
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    begun, total = time.time(), 0.0
    for step, batch in zip(range(1, steps + 1), stream):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 50 == 0:
            print(f"step {step}/{steps} loss {total / 50:.3f} {time.time() - begun:.0f} s", flush=True)
            total = 0.0
        if step % SAVE_EVERY == 0 or step == steps:
            save_file(adapter.export(model), out)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=16000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(demo.QUESTION_ANSWERING_FILE))
    return parser.parse_args()


def main() -> None:
    """Train, write the file, and measure what was written."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    base = demo.base_folder()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = demo.plain_question_answering(base)
    adapter.attach(model, RANK)
    stream = batches(tokenizer, iter(Generator(args.seed)), random.Random(args.seed))
    train(model, stream, args.examples // BATCH, args.out)
    evaluate.report(args.out, HERE / "dev.json")


if __name__ == "__main__":
    main()
