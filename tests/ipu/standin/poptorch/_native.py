"""Waiting as native code waits: a signal handler written in Python does not run before it is over.

The main thread sits in C, so SIGTERM only sets a flag; SIGKILL ends it.
"""

import ctypes
import time

#: Room for a pthread_mutex_t, bytes; all zeros is an unlocked one.
MUTEX_BYTES = 256


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


def busy(seconds: float) -> None:
    """Take that long; the interpreter lock is free meanwhile, so other threads run."""
    library = ctypes.CDLL(None)
    end = time.time() + seconds
    until = _Timespec(int(end), int(end % 1 * 1e9))
    library.pthread_mutex_timedlock(_locked(library), ctypes.byref(until))


def hang() -> None:
    """Never return; the interpreter lock is held, so no thread runs."""
    library = ctypes.PyDLL(None)
    library.pthread_mutex_lock(_locked(library))


def _locked(library: ctypes.CDLL) -> "ctypes.Array[ctypes.c_char]":
    """Return a mutex that is locked: the next to lock it waits, signals or not."""
    mutex = ctypes.create_string_buffer(MUTEX_BYTES)
    library.pthread_mutex_lock(mutex)
    return mutex
