"""Splits of sources into train, validation and test, and into folds: by group, never by frame.

A group is what must not be torn apart: the clips cut from one photograph, the sources filmed in one
scene, or just one source. Both functions look only at the ids, so the same ids give the same
answer on every machine, in every order, without a seed.
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
    """Give every source a split, whole groups at a time.

    The groups are ranked by the SHA-256 of their id, and the ranking is cut into three runs: first
    train, then validation, then test. Shares count groups, not sources, by largest remainder; with
    three groups or more each split gets at least one. With two, one goes to train and one to test;
    a single group goes to train.

    Args:
      groups: source id to group id.
      shares: shares of train, validation and test, all above 0; they are divided by their sum.

    Returns:
      Source id to split, in ascending order of source id. Empty for no source.

    Raises:
      ValueError: not three shares, or a share that is not above 0 and finite.
    """
    if len(shares) != len(SPLITS) or not all(0.0 < share < float("inf") for share in shares):
        raise ValueError(f"assign_splits: expected three finite shares above 0, got {shares}")
    ranking = _ranked(groups)
    split_of_group: dict[str, Split] = {}
    start = 0
    for split, size in zip(SPLITS, _split_sizes(len(ranking), shares), strict=True):
        split_of_group.update(dict.fromkeys(ranking[start : start + size], split))
        start += size
    return {source_id: split_of_group[groups[source_id]] for source_id in sorted(groups)}


def folds(groups: Mapping[str, str], k: int) -> list[tuple[str, ...]]:
    """Partition the sources into `k` folds for cross-validation, whole groups at a time.

    Groups are dealt out in the order of the SHA-256 of their id, one fold after the other, so the
    numbers of groups in two folds differ by 1 at most.

    Args:
      groups: source id to group id.
      k: number of folds, from 2 to the number of groups.

    Returns:
      `k` tuples of source ids, each in ascending order, none of them empty.

    Raises:
      ValueError: `k` is below 2 or above the number of groups.
    """
    ranking = _ranked(groups)
    if not 2 <= k <= len(ranking):
        raise ValueError(
            f"folds: expected 2 <= k <= {len(ranking)} (the number of groups), got {k}"
        )
    fold_of_group = {group_id: rank % k for rank, group_id in enumerate(ranking)}
    return [
        tuple(sorted(source for source, group in groups.items() if fold_of_group[group] == fold))
        for fold in range(k)
    ]


def _ranked(groups: Mapping[str, str]) -> list[str]:
    """The distinct group ids by hash; the id itself decides should two hashes ever agree."""
    return sorted(
        set(groups.values()),
        # Group ids come from file names, which may hold bytes that are no UTF-8.
        key=lambda group_id: (
            hashlib.sha256(group_id.encode("utf-8", "surrogatepass")).digest(),
            group_id,
        ),
    )


def _split_sizes(num_groups: int, shares: tuple[float, ...]) -> tuple[int, int, int]:
    """Numbers of groups in train, validation and test; they add up to `num_groups`."""
    if num_groups < len(SPLITS):
        return (min(num_groups, 1), 0, max(num_groups - 1, 0))
    # Exact decimals: 0.15 of 20 groups is 3, whatever binary fractions make of it.
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
