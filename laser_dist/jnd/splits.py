"""Split sources into train, validation and test, and into folds: by group, never by frame.

A group must not be split: the clips cut from one photograph, the sources of one scene, or a single
source. Both functions depend on the ids only, so the same ids give the same result on every
machine, in every order, without a seed.
"""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, Split, Split] = ("train", "validation", "test")


def assign_splits(
    groups: Mapping[str, str], shares: tuple[float, float, float] = (0.6, 0.15, 0.25)
) -> dict[str, Split]:
    """Assign a split to every source, keeping groups together.

    The groups are ranked by the SHA-256 of their id; train gets the first ones, then validation,
    then test. Shares count groups, not sources, by largest remainder. With three groups or more
    each split gets at least one; of two groups, one goes to train and one to test; a single group
    goes to train.

    Args:
      groups: source id to group id.
      shares: shares of train, validation and test, all above 0; normalized by their sum.

    Returns:
      Source id to split, ordered by source id; empty without sources.

    Raises:
      ValueError: there are not three shares, or one is not above 0 and finite.
    """
    if len(shares) != len(SPLITS) or not all(0.0 < share < float("inf") for share in shares):
        raise ValueError(f"shares must be three finite numbers above 0, got {shares}")
    ranking = _ranked(groups)
    split_of_group: dict[str, Split] = {}
    start = 0
    for split, size in zip(SPLITS, _split_sizes(len(ranking), shares), strict=True):
        split_of_group.update(dict.fromkeys(ranking[start : start + size], split))
        start += size
    return {source_id: split_of_group[groups[source_id]] for source_id in sorted(groups)}


def folds(groups: Mapping[str, str], k: int) -> list[tuple[str, ...]]:
    """Partition the sources into `k` folds for cross-validation, keeping groups together.

    Groups are assigned round-robin in the order of the SHA-256 of their id, so the numbers of
    groups in two folds differ by at most 1.

    Args:
      groups: source id to group id.
      k: number of folds, from 2 to the number of groups.

    Returns:
      `k` non-empty tuples of source ids, each ascending.

    Raises:
      ValueError: `k` is below 2 or above the number of groups.
    """
    ranking = _ranked(groups)
    if not 2 <= k <= len(ranking):
        raise ValueError(f"k must be in 2..{len(ranking)} (the number of groups), got {k}")
    fold_of_group = {group_id: rank % k for rank, group_id in enumerate(ranking)}
    return [
        tuple(sorted(source for source, group in groups.items() if fold_of_group[group] == fold))
        for fold in range(k)
    ]


def _ranked(groups: Mapping[str, str]) -> list[str]:
    """Return the distinct group ids by hash, and by id if two hashes agree."""
    return sorted(
        set(groups.values()),
        # Group ids come from file names, which may not be valid UTF-8.
        key=lambda group_id: (
            hashlib.sha256(group_id.encode("utf-8", "surrogatepass")).digest(),
            group_id,
        ),
    )


def _split_sizes(num_groups: int, shares: tuple[float, ...]) -> tuple[int, int, int]:
    """Return the numbers of groups in train, validation and test."""
    if num_groups < len(SPLITS):
        return (min(num_groups, 1), 0, max(num_groups - 1, 0))
    # Exact decimals: 0.15 of 20 groups is 3, which binary fractions miss.
    exact = [Fraction(repr(float(share))) for share in shares]
    quotas = [share * num_groups / sum(exact) for share in exact]
    sizes = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (sizes[i] - quotas[i], i))
    for index in by_remainder[: num_groups - sum(sizes)]:
        sizes[index] += 1
    while 0 in sizes:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    train, validation, test = sizes
    return (train, validation, test)
