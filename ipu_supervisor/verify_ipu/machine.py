"""The checks of the machine: its libraries and IPUs, replicas side by side, IPUs that are freed, real errors."""

import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict

from ipu_supervisor.core.crew import GRACE_S
from ipu_supervisor.layout import HARDWARE, MOST_IPUS
from ipu_supervisor.operate import MOST_REPLICAS
from ipu_supervisor.verify_ipu import inputs
from ipu_supervisor.verify_ipu.host import Host
from ipu_supervisor.verify_ipu.models import ANSWER_LIMIT_S, MEASURED, ModelChecks
from ipu_supervisor.verify_ipu.run import NotTried, Run, hold, say
from ipu_supervisor.verify_ipu.serving import Entry, Served, told

#: How many times the answers of one replica all of them must give a second (chosen: taking turns gives hardly more).
SIDE_BY_SIDE = 1.5
#: Rows that no IPU holds: one attention layer of DistilBERT makes 1.8 GB of scores of them, and an IPU has 0.9 GB.
TOO_MANY_ROWS = 512
#: Longest wait until the compiler finds out, seconds (chosen).
TOO_LARGE_LIMIT_S = 1800.0


def check_host(run: Run, host: Host) -> None:
    """Check that the libraries and the count of IPUs fit."""
    if host.fault:
        run.failed("libraries", "", host.fault)
    else:
        run.check("libraries", "", _libraries, host)
    run.check("count", "", _count, host)


def _libraries(host: Host) -> str:
    """Look at what was imported."""
    version = host.libraries["optimum-graphcore"]
    figures = "PopTorch {}, torch {}, optimum-graphcore {}, hardware version {}".format(
        host.libraries["PopTorch"], host.libraries["torch"], version, host.libraries["hardware"]
    )
    return hold(figures, version == "0.7.1" and host.libraries["hardware"] in HARDWARE)


def _count(host: Host) -> str:
    """Compare the counts."""
    figures = "gc-info counts {}, PopTorch finds groups of up to {}; named by: {}".format(
        host.counted, host.largest, ", ".join(host.named) or "no IPUOF_*"
    )
    return hold(figures, host.largest <= min(host.counted or 0, MOST_IPUS) < 2 * host.largest)


class MachineChecks:
    """Replicas of one model on all IPUs of the machine."""

    #: Checks with replicas side by side, and those that replicas must hold every IPU for.
    ALONGSIDE = ("replicas", "full", "gc_monitor")
    ALL_HELD = ("busy", "terminated", "killed")

    def __init__(self, run: Run, host: Host, model: ModelChecks, most: int) -> None:
        """Store the model that is used, and the most replicas to start."""
        self.run, self.host, self.model = run, host, model
        self.room = host.usable // model.need
        self.replicas = min(self.room, most)

    def alongside(self, served: Served) -> None:
        """Run the checks that need running replicas."""
        run, name = self.run, self.model.model
        run.check("replicas", name, self._side_by_side, served)
        run.check("full", name, self._one_more, served)
        run.check("gc_monitor", name, self._monitored, served)
        held = self.replicas * self.model.need
        if held != self.host.counted:
            why = "replicas hold {} of {} IPUs, so another IPU may be free (--replicas, SUPERVISOR_IPUS)"
            run.all_not_tried(self.ALL_HELD, name, why.format(held, self.host.counted))
            return
        run.check("busy", name, self._busy)
        run.check("terminated", name, self._ended, served, signal.SIGTERM, "exited with code 0")
        run.check("killed", name, self._ended, served, signal.SIGKILL, "killed by SIGKILL")

    def errors(self) -> None:
        """Provoke the errors that can be provoked."""
        self.run.check("no_such_device", self.model.model, self._too_many_ipus)
        self.run.check("out_of_memory", self.model.model, self._too_large)

    # ---- side by side ------------------------------------------------------------------------------------------------

    def _side_by_side(self, served: Served) -> str:
        """Compare what all replicas answer with what one does: of one client's calls no two are computed at once."""
        if self.replicas < 2:
            raise NotTried("there is room for {} replica(s) on {} IPUs".format(self.replicas, self.host.usable))
        one, together = self._rate(served, 1), self._rate(served, self.replicas)
        figures = "{:.1f} answers/s for one client, {:.1f} for {}, as many as replicas; {:.1f} times as many".format(
            one, together, self.replicas, together / one
        )
        return hold(figures, together >= SIDE_BY_SIDE * one)

    def _rate(self, served: Served, clients: int) -> float:
        """Return the answers a second for so many clients; batches are full and texts long, so that the IPUs count."""
        model, batch = self.model.model, self.model.batch
        calls = [inputs.long(model, batch, number) for number in range(clients * MEASURED)]
        with ThreadPoolExecutor(clients) as pool:
            took = list(pool.map(lambda items: served.ask(items, ANSWER_LIMIT_S).took_s, calls))
        return clients * batch / statistics.mean(took)

    def _one_more(self, served: Served) -> str:
        """Ask for one replica more than there is room for."""
        if self.room + 1 > MOST_REPLICAS:
            raise NotTried("no model may have {} replicas".format(self.room + 1))
        done = served.command("scale", self.model.model, str(self.room + 1))
        answer = done.stdout.strip()
        return hold("exit code {}: {}".format(done.returncode, answer), done.returncode == 1 and "IPUs more" in answer)

    def _monitored(self, served: Served) -> str:
        """Look for the replicas' processes in what gc-monitor prints."""
        printed = self.host.monitor()
        if printed is None:
            raise NotTried("gc-monitor is not on the PATH")
        pids = [replica.pid for replica in served.look().replicas]
        named = [pid for pid in pids if str(pid) in printed.replace("|", " ").split()]
        return hold("{} of {} processes are named".format(len(named), len(pids)), named == pids)

    # ---- all IPUs are held -------------------------------------------------------------------------------------------

    def _busy(self) -> str:
        """Start another supervisor, for which no IPU is left."""
        say("{}: one replica of another supervisor".format(self.model.model))
        with self.run.serve("busy", {**self.model.entry, "replicas": 1}) as other:
            state = other.wait(
                lambda state: state.ready or state.counters["restarts"], self.run.limit_s, "its replica ended"
            )
        waits = not state.ready and state.replicas[0].state != "FAILED"
        return hold(told(state), waits and state.last_error.startswith("BUSY"))

    def _ended(self, served: Served, number: signal.Signals, how: str) -> str:
        """Signal one replica; see how it ends, and whether its successor gets the IPUs at the first try."""
        before = served.look()
        victim = before.replicas[0]
        began = time.monotonic()
        ended_s = served.end(victim.pid, number)
        served.wait(
            lambda state: state.counters["restarts"] > before.counters["restarts"], GRACE_S, "the process ended"
        )
        served.ready(self.replicas, self.run.limit_s)
        after = served.look()
        [exit_] = [one.last_exit for one in after.replicas if one.replica.startswith(_place(victim.replica))]
        restarts = after.counters["restarts"] - before.counters["restarts"]
        text = "{} after {:.2f} s; its successor READY {:.1f} s after the signal, with {:.0f} start(s)"
        figures = text.format(exit_, ended_s, time.monotonic() - began, restarts)
        return hold(figures, exit_ == how and restarts == 1)

    # ---- errors ------------------------------------------------------------------------------------------------------

    def _too_many_ipus(self) -> str:
        """Ask for a group that is larger than the machine; of two programs, each for one."""
        ipus = 2 * self.model.programs * max(self.host.largest, 1)
        if ipus > MOST_IPUS:
            raise NotTried("a replica may ask for {} IPUs, and there are as many".format(MOST_IPUS))
        entry = self._laid_out(**self._on(ipus))
        return self._final("NO_SUCH_DEVICE", entry, self.run.limit_s, SUPERVISOR_IPUS=str(ipus))

    def _too_large(self) -> str:
        """Compile for more rows than an IPU holds."""
        entry = self._laid_out(**{**self.model.entry.get("ipu", {}), "batch_size": TOO_MANY_ROWS})
        return self._final("OUT_OF_MEMORY", entry, max(TOO_LARGE_LIMIT_S, self.run.limit_s))

    def _on(self, ipus: int) -> Dict[str, Any]:
        """Return a layout on so many IPUs."""
        if self.model.programs == 2:
            return {"ipus": ipus}
        return {**self.model.entry.get("ipu", {}), "replication": ipus // self.model.ipus}

    def _laid_out(self, **ipu: Any) -> Entry:
        """Return the entry with another layout, for one replica."""
        entry = {name: value for name, value in self.model.entry.items() if name != "max_batch_size"}
        return {**entry, "replicas": 1, "ipu": ipu}

    def _final(self, kind: str, entry: Entry, limit_s: float, **settings: str) -> str:
        """Start a replica that must fail with an error of a kind, once."""
        say("{}: a replica that should fail with {}".format(self.model.model, kind))
        with self.run.serve(kind.lower(), entry, **settings) as served:
            state = served.wait(lambda state: state.ready or state.counters["restarts"], limit_s, "the replica ended")
        failed = [replica.state for replica in state.replicas] == ["FAILED"]
        once = state.counters["restarts"] == 1
        return hold(told(state), failed and once and state.last_error.startswith(kind))


def _place(replica: str) -> str:
    """Return the place of a replica, whatever its life is called."""
    return replica.rpartition(".")[0] + "."
