"""Split sources into train, validation and test, and into folds: by group, never by frame.

A group must not be split: the clips of one film, the clips cut from one photograph, or a single
source. Groups can differ much in size, so parts are filled by numbers of sources. The result
depends on the ids only: it is the same on every machine and in every order.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, Split, Split] = ("train", "validation", "test")


def assign_splits(
    groups: Mapping[str, str], shares: tuple[float, float, float] = (0.6, 0.15, 0.25)
) -> dict[str, Split]:
    """Assign a split to every source, keeping groups together.

    Groups are assigned by size, the largest first, each to the split that lacks the most sources.
    Of groups of equal size, train gets the first ones by the SHA-256 of their id, then validation,
    then test. With three groups or more each split gets at least one; of two groups, one goes to
    train and one to test; a single group goes to train.

    Args:
      groups: source id to group id.
      shares: shares of the sources in train, validation and test, all above 0; normalized by their
        sum.

    Returns:
      Source id to split, ordered by source id; empty without sources.

    Raises:
      ValueError: there are not three shares, or one is not above 0 and finite.
    """
    if len(shares) != len(SPLITS) or not all(0.0 < share < float("inf") for share in shares):
        raise ValueError(f"shares must be three finite numbers above 0, got {shares}")
    sizes = Counter(groups.values())
    ranking = _ranked(sizes)
    # Exact decimals: 0.15 of 20 groups is 3, which binary fractions miss.
    weights = dict(zip(SPLITS, (Fraction(repr(float(share))) for share in shares), strict=True))
    splits: Sequence[Split] = SPLITS if len(sizes) >= len(SPLITS) else ("train", "test")
    parts = iter(_parts([sizes[group_id] for group_id in ranking], [weights[s] for s in splits]))
    split_of_group: dict[str, Split] = {}
    for _, equal in groupby(ranking, key=sizes.__getitem__):
        members = list(equal)
        found = sorted(next(parts) for _ in members)
        split_of_group |= {group: splits[part] for group, part in zip(members, found, strict=True)}
    return {source_id: split_of_group[groups[source_id]] for source_id in sorted(groups)}


def folds(groups: Mapping[str, str], num_folds: int, *, seed: int = 0) -> list[tuple[str, ...]]:
    """Partition the sources into folds of similar size for cross-validation, by group.

    Groups are assigned by size, the largest first, each to the fold with the fewest sources.

    Args:
      groups: source id to group id.
      num_folds: from 2 to the number of groups; with the latter, each fold is a group.
      seed: decides the order of groups of equal size, and thus which of them share a fold.

    Returns:
      `num_folds` non-empty tuples of source ids, each ascending; every source is in one of them.

    Raises:
      ValueError: `num_folds` is below 2 or above the number of groups.
    """
    sizes = Counter(groups.values())
    if not 2 <= num_folds <= len(sizes):
        raise ValueError(f"num_folds must be 2 to {len(sizes)}, the number of groups: {num_folds}")
    ranking = _ranked(sizes, salt=str(seed))
    parts = _parts([sizes[group_id] for group_id in ranking], [Fraction(1)] * num_folds)
    fold_of_group = dict(zip(ranking, parts, strict=True))
    return [
        tuple(sorted(source for source, group in groups.items() if fold_of_group[group] == fold))
        for fold in range(num_folds)
    ]


def cross_validation(groups: Mapping[str, str], num_folds: int) -> list[dict[str, list[str]]]:
    """Return the splits of each run of a cross-validation.

    Each fold is the test split of one run. Of the other sources, about a fifth validates, by group.

    Args:
      groups: source id to group id.
      num_folds: from 2; each fold must leave two groups or more.

    Returns:
      For each fold, split to source ids, ascending.

    Raises:
      ValueError: there are not enough groups.
    """
    found: list[dict[str, list[str]]] = []
    for test in folds(groups, num_folds):
        rest = {source: group for source, group in groups.items() if source not in set(test)}
        validation = folds(rest, min(5, len(set(rest.values()))))[-1]
        train = sorted(rest.keys() - set(validation))
        found.append({"train": train, "validation": list(validation), "test": list(test)})
    return found


def _ranked(sizes: Mapping[str, int], salt: str = "") -> list[str]:
    """Return the group ids by size, descending, then by hash, and by id if two hashes agree."""
    return sorted(
        sizes,
        # Group ids come from file names, which may not be valid UTF-8.
        key=lambda group_id: (
            -sizes[group_id],
            hashlib.sha256((salt + group_id).encode("utf-8", "surrogatepass")).digest(),
            group_id,
        ),
    )


def _parts(sizes: Sequence[int], weights: Sequence[Fraction]) -> list[int]:
    """Assign each group the part that lacks the most sources; none stays empty if groups suffice.

    Args:
      sizes: number of sources of each group, descending.
      weights: relative number of sources that each part should get.

    Returns:
      The index of each group's part.
    """
    lacking = [weight * sum(sizes) / sum(weights) for weight in weights]
    parts: list[int] = []
    for position, size in enumerate(sizes):
        empty = [part for part in range(len(weights)) if part not in parts]
        must_fill = len(empty) >= len(sizes) - position
        part = max(empty if must_fill else range(len(weights)), key=lambda part: lacking[part])
        lacking[part] -= size
        parts.append(part)
    return parts
