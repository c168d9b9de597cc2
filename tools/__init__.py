"""What the Makefile runs besides the two halves: never imported by them, never deployed."""
