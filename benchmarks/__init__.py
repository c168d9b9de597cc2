"""Load tests and comparisons: `make bench`. Each figure is a ratio within one run; absolute numbers are this machine's."""
