"""Runs every benchmark, one after the other, and prints a table for each."""

from benchmarks import front, sharing, supervisor


def main() -> None:
    """Run them all."""
    for benchmark in (supervisor, front, sharing):
        print(f"\n## {(benchmark.__doc__ or '').splitlines()[0]}\n", flush=True)
        benchmark.main()


if __name__ == "__main__":
    main()
