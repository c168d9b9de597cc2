"""Grants compiles one at a time, over all models: compiling takes much host memory."""

from typing import List, Optional


class CompileGate:
    """Who compiles now, and who waits, in order of asking."""

    def __init__(self) -> None:
        """Begin with nobody compiling."""
        self._compiling: Optional[str] = None
        self._waiting: List[str] = []

    def asks(self, replica: str) -> None:
        """Put a replica at the end of the line."""
        self._waiting.append(replica)

    def leaves(self, replica: str) -> None:
        """Take a replica out: it has compiled, or died."""
        if self._compiling == replica:
            self._compiling = None
        if replica in self._waiting:
            self._waiting.remove(replica)

    def next(self) -> Optional[str]:
        """Return the replica whose turn it is now, once."""
        if self._compiling is not None or not self._waiting:
            return None
        self._compiling = self._waiting.pop(0)
        return self._compiling
