"""Prints the branch coverage of each package; `make coverage` collects the data first."""

from collections import defaultdict
from pathlib import Path

from coverage import Coverage

TARGET = 85
# Why a package may stay below the target.
REASONS: dict[str, str] = {}


def main():
    coverage = Coverage()
    coverage.combine()
    coverage.load()
    counts = defaultdict(lambda: [0, 0, 0, 0])
    for path in sorted(coverage.get_data().measured_files()):
        if not path.endswith(".py"):  # a template
            continue
        numbers = coverage._analyze(path).numbers
        parts = Path(path).relative_to(Path.cwd()).parts[:-1]
        for position, count in enumerate(
            (
                numbers.n_executed,
                numbers.n_statements,
                numbers.n_executed_branches,
                numbers.n_branches,
            )
        ):
            counts[".".join(parts[:2])][position] += count
    print(f"{'package':<28}{'lines':>8}{'branches':>10}{'both':>8}")
    for package, (lines, all_lines, branches, all_branches) in sorted(counts.items()):
        both = 100 * (lines + branches) / max(all_lines + all_branches, 1)
        reason = REASONS.get(package, "below the target") if both < TARGET else ""
        print(
            f"{package:<28}{100 * lines / max(all_lines, 1):>7.1f}%"
            f"{100 * branches / max(all_branches, 1):>9.1f}%{both:>7.1f}%  {reason}".rstrip()
        )


if __name__ == "__main__":
    main()
