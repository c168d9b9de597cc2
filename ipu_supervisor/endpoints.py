"""Where the supervisor listens: what is wrong with paths, ports and keys. Looks at files, opens no socket."""

import os
import pathlib
import re
from typing import Any, List, Mapping, Sequence, Tuple

#: Longest path of a Unix socket, bytes (sun_path of Linux less its end mark).
MAX_SOCKET_PATH_BYTES = 107
#: Largest port of TCP.
MAX_PORT = 65_535
#: What a folder of CURVE keys holds for the supervisor, and for who asks it: the web side, or an operator.
SUPERVISOR_KEYS, CLIENT_KEYS = ("supervisor.key_secret", "clients"), ("supervisor.key", "service.key_secret")


def run_dir(values: Mapping[str, Any], binds: bool) -> Tuple[pathlib.Path, List[str]]:
    """Return the folder of the sockets, and what is wrong with the endpoint; `binds`: for whom it is that binds."""
    endpoint = values["SUPERVISOR_ENDPOINT"]
    place = endpoint.partition("://")[2]
    ipc = endpoint.startswith("ipc://")
    folder = pathlib.Path(values["SUPERVISOR_RUN_DIR"] or (pathlib.Path(place).parent if ipc else ".run"))
    faults = _ipc_faults(place) if ipc else _tcp_faults(place, bool(values["SUPERVISOR_CURVE_KEYS"]))
    # Replicas may work in another folder, so this one is absolute.
    longest = len(os.fsencode((folder / "replicas.sock").absolute()))
    if binds and longest > MAX_SOCKET_PATH_BYTES:
        text = "SUPERVISOR_RUN_DIR: {} is too long: a socket in it has a path of {} bytes, and at most {} are possible"
        faults.append(text.format(folder.absolute(), longest, MAX_SOCKET_PATH_BYTES))
    return folder, faults


def _ipc_faults(place: str) -> List[str]:
    """Return what is wrong with the path of a Unix socket."""
    if len(os.fsencode(place)) > MAX_SOCKET_PATH_BYTES:
        return ["SUPERVISOR_ENDPOINT: a socket's path has at most {} bytes".format(MAX_SOCKET_PATH_BYTES)]
    if place.startswith("@") or place == "*":
        return ["SUPERVISOR_ENDPOINT: name a file: who may open an ipc://{} nobody can say".format(place)]
    return []


def _tcp_faults(place: str, keys: bool) -> List[str]:
    """Return what is wrong with a host and port."""
    host, _, port = place.rpartition(":")
    if not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= MAX_PORT):
        return ["SUPERVISOR_ENDPOINT: tcp:// needs a port from 1 to {}".format(MAX_PORT)]
    if host in ("*", "0.0.0.0", "[::]"):
        return ["SUPERVISOR_ENDPOINT: name one address, not every interface ({})".format(host)]
    if not keys and host not in ("127.0.0.1", "localhost", "[::1]"):
        return ["SUPERVISOR_ENDPOINT: tcp:// beyond loopback needs SUPERVISOR_CURVE_KEYS"]
    return []


def key_faults(values: Mapping[str, Any], needed: Sequence[str]) -> List[str]:
    """Return what lacks in the folder of CURVE keys; on `ipc://` nobody looks there."""
    folder = values["SUPERVISOR_CURVE_KEYS"]
    if not folder or not values["SUPERVISOR_ENDPOINT"].startswith("tcp://"):
        return []
    lacking = [name for name in needed if not os.access(os.path.join(folder, name), os.R_OK)]
    text = "SUPERVISOR_CURVE_KEYS: cannot read {} in {}; `python -m ipu_supervisor keys FOLDER` makes keys"
    return [text.format(" and ".join(lacking), folder)] if lacking else []
