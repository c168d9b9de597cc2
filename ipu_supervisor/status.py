"""The read-only picture of a supervisor that `/models`, readiness, `/metrics` and the operator see."""

import os
import time
from typing import TYPE_CHECKING, Dict

from ipu_supervisor.core.pool import Pool
from ipu_supervisor.core.replica import USABLE, Replica
from ipu_supervisor.protocol.messages import ModelStatus, ReplicaStatus, Status

if TYPE_CHECKING:
    from ipu_supervisor.loop import Supervisor

#: The version that `/models` and the log tell.
VERSION = "0.1.0"


def snapshot(supervisor: "Supervisor", now: float) -> Status:
    """Return the state of everything at this moment."""
    return Status(
        version=VERSION,
        pid=os.getpid(),
        uptime_s=time.monotonic() - supervisor.started_at,
        draining=supervisor.draining,
        models=[_model(supervisor, name, pool, now) for name, pool in supervisor.pools.items()],
        counters={
            "dropped_replies": float(supervisor.front.dropped),
            "refused_frames": float(supervisor.front.garbage),
            "ipus": float(supervisor.leases.total),
            "ipus_leased": float(supervisor.leases.held),
        },
    )


def _model(supervisor: "Supervisor", name: str, pool: Pool, now: float) -> ModelStatus:
    """Return the state of one model."""
    crew, requests = pool.crew, pool.requests
    reason = "draining" if pool.draining else crew.why_not_ready()
    failing = not crew.usable() or bool(crew.last_error)
    usable = (replica for replica in crew.all() if replica.state in USABLE)
    serving = max(usable, key=lambda replica: replica.generation, default=None)
    return ModelStatus(
        model=name,
        ready=not reason,
        reason=reason,
        identity=(serving and serving.identity) or requests.identity,
        file_hash=supervisor.versions[name].of(serving).file.sha256,
        replicas=[_replica(supervisor, replica, now) for replica in crew.all()],
        backlog=len(requests.backlog),
        in_flight=sum(len(replica.aboard) for replica in crew.all()),
        max_backlog=pool.settings.max_backlog,
        expected_wait_s=pool.expected_wait_s(now),
        load_s=crew.load_s or 0.0,
        last_error=crew.last_error,
        advice=crew.advice(),
        last_stderr=[line for replica in crew.all() for line in supervisor.launcher.last_words(replica.place)]
        if failing
        else [],
        counters=_counters(pool, now),
    )


def _replica(supervisor: "Supervisor", replica: Replica, now: float) -> ReplicaStatus:
    """Return the state of one replica."""
    return ReplicaStatus(
        replica=replica.name,
        state=replica.state.value,
        since_s=max(0.0, now - replica.since),
        pid=supervisor.pids.get(replica.name, 0),
        last_exit=replica.last_exit,
        reason=replica.reason,
        advice=replica.advice,
        compiled=replica.compiled,
        from_cache=replica.from_cache,
    )


def _counters(pool: Pool, now: float) -> Dict[str, float]:
    """Return what was counted since the supervisor started."""
    counts = {name: float(count) for name, count in pool.requests.counts.items()}
    counts.update(pool.requests.quarantine.counts(now))
    counts["restarts"] = float(pool.crew.restarts)
    counts["alarms"] = float(pool.crew.alarms())
    return counts
