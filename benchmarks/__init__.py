"""Load tests and comparisons: `make bench`. Read ratios within one run; absolute numbers are the machine's."""
