"""Names that optimum-graphcore's trainer imports; training itself is not modelled."""

from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

__all__ = ["LAMB", "SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]


class LAMB(AdamW):
    """Named only."""
