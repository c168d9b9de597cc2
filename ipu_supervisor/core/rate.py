"""How fast one replica of a model works, as measured, and how long a given amount of work will take."""

from typing import Optional

#: Weight of the newest batch in the moving average (chosen: about the last ten batches count).
WEIGHT = 0.2


class ServiceRate:
    """A moving average of seconds per token of one replica."""

    def __init__(self) -> None:
        """Begin without a measurement."""
        self._s_per_token: Optional[float] = None

    def measured(self, seconds: float, tokens: int) -> None:
        """Note one batch."""
        sample = seconds / max(tokens, 1)
        old = self._s_per_token
        self._s_per_token = sample if old is None else old + WEIGHT * (sample - old)

    def seconds(self, tokens: float) -> float:
        """Return the estimated seconds for an amount of work on one replica; 0 while nothing is measured."""
        return (self._s_per_token or 0.0) * tokens
