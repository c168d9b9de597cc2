"""The checks of one model: what its first start compiles, what it answers and how fast, what its second start finds."""

import pathlib
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Callable, Dict, List, Tuple

from ipu_supervisor import layout
from ipu_supervisor.config import ModelConfig
from ipu_supervisor.verify_ipu import inputs
from ipu_supervisor.verify_ipu.run import NotTried, Run, hold, say
from ipu_supervisor.verify_ipu.serving import Entry, Failed, Served

#: What can be verified, and which share of the requests it gets: a summary may take seconds.
SHARES = {"question_answering": 1.0, "summarization": 0.2}
#: How many clients send half of the requests; the other half comes one after the other.
CLIENTS = 8
#: A call is as slow as a compile when it takes half of what one program took to compile, and so many seconds (chosen: a
#: busy host's hiccup takes tenths of one).
SLOW_S = 1.0
#: Calls that are measured: so many single ones, and as many full batches (chosen).
MEASURED = 20
#: Half precision may move a score by so much, and must leave such a share of a summary's words (chosen).
SCORE_DIFFERENCE, LIKENESS = 0.05, 0.6
#: Longest wait for one answer, seconds (chosen: many summaries on a slow CPU).
ANSWER_LIMIT_S = 600.0
#: What of an entry holds for the CPU too.
ANYWHERE = ("model", "checkpoint", "revision", "options")


class ModelChecks:
    """One entry of `SERVER_MODELS`, on IPUs and on the CPU."""

    #: The checks for which one running replica is enough.
    SERVING = ("compile", "precision", "traffic", "batches")

    def __init__(self, run: Run, entry: Entry, config: ModelConfig) -> None:
        """Store what is served; `config` is what the project makes of the entry."""
        self.run, self.entry, self.model = run, entry, config.name
        self.batch = layout.compiled_batch(config.ipu)
        self.programs = 2 if config.task in layout.GENERATION else 1
        self.ipus, self.need = int(config.ipu["ipus"]), layout.need(config.ipu)
        self._max_backlog = config.max_backlog
        self.requests = max(2, int(run.requests * SHARES[self.model]))
        self._compile_s = 0.0
        #: What lies in the cache before the first start, and before the second.
        self._others = self._earlier = run.cached()

    def first_start(self) -> bool:
        """Start one replica with an empty cache and ask it; say whether it became READY."""
        say("{}: first start".format(self.model))
        with self.run.serve("first-" + self.model, self._served(1)) as served:
            try:
                [replica] = served.ready(1, self.run.limit_s)
            except Failed as error:
                self.run.failed("compile", self.model, str(error))
                self.run.all_not_tried([*self.SERVING[1:], "cache"], self.model, "no replica became READY")
                return False
            self._compile_s = served.ready_after(replica.replica, "COMPILING")
            for name, look in zip(self.SERVING, (self._compiled, self._precision, self._traffic, self._batches)):
                self.run.check(name, self.model, look, served)
        return True

    def second_start(self, replicas: int, alongside: Callable[[Served], None]) -> bool:
        """Start replicas with the cache that the first start filled, and do something while they run."""
        say("{}: second start, replicas: {}".format(self.model, replicas))
        self._earlier = self.run.cached()
        with self.run.serve("second-" + self.model, self._served(replicas)) as served:
            try:
                served.ready(replicas, self.run.limit_s)
            except Failed as error:
                self.run.failed("cache", self.model, str(error))
                return False
            self.run.check("cache", self.model, self._cached, served)
            alongside(served)
        return True

    def _served(self, replicas: int) -> Entry:
        """Return the entry for so many replicas, with a backlog that holds all that the checks ask at one moment."""
        asked = max(CLIENTS, replicas) * (self.batch + 1)
        return {**self.entry, "replicas": replicas, "max_backlog": max(self._max_backlog, asked)}

    # ---- the checks --------------------------------------------------------------------------------------------------

    def _compiled(self, served: Served) -> str:
        """Look at what the first start compiled, and at the cache's folder."""
        [replica] = served.look().replicas
        files = [pathlib.Path(name) for name in self.run.cached() if name not in self._others]
        text = "{} compiled, {} from the cache, in {:.1f} s, READY {:.1f} s after the start; new files: {}"
        sizes = ["{} ({:.1f} MB)".format(path.name, path.stat().st_size / 1e6) for path in files]
        ready_s = served.ready_after(replica.replica)
        figures = text.format(
            replica.compiled, replica.from_cache, self._compile_s, ready_s, ", ".join(sizes) or "none"
        )
        suffixes = [path.suffix for path in files]
        return hold(figures, replica.compiled == self.programs and suffixes == [".popef"] * self.programs)

    def _precision(self, served: Served) -> str:
        """Compare the answers with those of the CPU."""
        dtype = served.look().identity.dtype
        if dtype != "float16":
            raise NotTried("it computes in {}".format(dtype))
        asked = inputs.comparable(self.model)
        found = _answers(served, asked)
        say("{}: the same on the CPU".format(self.model))
        entry = {name: self.entry[name] for name in ANYWHERE if name in self.entry}
        entry.update(device="cpu", dtype="float32", batch_limit_s=ANSWER_LIMIT_S)
        with self.run.serve("cpu-" + self.model, entry) as on_cpu:
            on_cpu.ready(1, self.run.limit_s)
            expected = _answers(on_cpu, asked)
        same, worst = inputs.compare(self.model, expected, found)
        if self.model == "summarization":
            text = "{} of {} summaries are the same word for word; the least alike share {:.0%} of their words"
            return hold(text.format(same, len(asked), worst), worst >= LIKENESS)
        text = "{} of {} answers are the same; scores differ by {:.5f} at most"
        return hold(text.format(same, len(asked), worst), same == len(asked) and worst <= SCORE_DIFFERENCE)

    def _traffic(self, served: Served) -> str:
        """Send requests of mixed kinds, one after the other, then several at once; look for another compile."""
        before, requests = self.run.cached(), inputs.mixed(self.model, self.requests, self.batch)
        half = len(requests) // 2

        def seconds(items: List[Dict[str, str]]) -> float:
            return served.ask(items, ANSWER_LIMIT_S).inference_ms / 1000

        took = [seconds(items) for items in requests[:half]]
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as clients:
            took += clients.map(seconds, requests[half:])
        rate = (len(requests) - half) / (time.monotonic() - began)
        after, restarts = self.run.cached(), served.look().counters["restarts"]
        text = (
            "{} requests; files in the cache: {} before, {} after; slowest {:.2f} s, a program compiled in {:.2f} s; "
            "{:.1f} requests/s by {} clients; restarts: {:.0f}"
        )
        program_s = self._compile_s / self.programs
        figures = text.format(len(requests), len(before), len(after), max(took), program_s, rate, CLIENTS, restarts)
        return hold(figures, after == before and max(took) < max(SLOW_S, program_s / 2) and not restarts)

    def _batches(self, served: Served) -> str:
        """Measure single requests and full batches."""
        took: Dict[int, List[float]] = {1: [], self.batch: []}
        for call in range(MEASURED):
            for rows, times in took.items():
                times.append(served.ask(inputs.distinct(self.model, rows, call), ANSWER_LIMIT_S).took_s * 1000)
        singles, full = took[1], took[self.batch]
        figures = "single: p50 {:.1f} ms, slowest {:.1f} ms, {:.1f}/s".format(*_summary(singles, 1))
        if self.batch == 1:
            raise NotTried("ipu.batch_size is 1; " + figures)
        figures += "; {} at once: p50 {:.1f} ms, slowest {:.1f} ms, {:.1f}/s".format(
            self.batch, *_summary(full, self.batch)
        )
        return hold(figures, median(full) < self.batch * median(singles))

    def _cached(self, served: Served) -> str:
        """Look at what the second start found in the cache."""
        replicas = served.look().replicas
        compiled, found = sum(one.compiled for one in replicas), sum(one.from_cache for one in replicas)
        took = [served.ready_after(one.replica, "COMPILING") for one in replicas]
        files, earlier = self.run.cached(), len(self._earlier)
        text = "{} compiled, {} from the cache by {} replica(s), in {:.1f} to {:.1f} s each; at first {:.1f} s"
        figures = text.format(compiled, found, len(replicas), min(took), max(took), self._compile_s)
        figures += "; files in the cache: {} before, {} after".format(earlier, len(files))
        kept = files == self._earlier and earlier >= self.programs
        # A program for which the disk had too little room left counts as found: time tells.
        sooner = max(took) < self._compile_s / 2
        return hold(figures, not compiled and found == self.programs * len(replicas) and kept and sooner)


def _answers(served: Served, asked: List[Dict[str, str]]) -> List[Dict[str, Any]]:
    """Return the answer to each input, asked alone."""
    return [served.ask([item], ANSWER_LIMIT_S).results[0] for item in asked]


def _summary(times: List[float], rows: int) -> Tuple[float, float, float]:
    """Return the median and the slowest of calls with so many inputs (ms), and how many answers that is a second."""
    return median(times), max(times), rows * 1000 / median(times)
