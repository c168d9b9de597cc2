"""The demo question-answering checkpoint: text generator, trainer, and evaluation."""
