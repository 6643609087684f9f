import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.jnd.splits import SPLITS, assign_splits, folds

ids = st.text(min_size=1, max_size=6)
groupings = st.dictionaries(ids, ids, max_size=40)
shares = st.tuples(*[st.floats(0.001, 1.0)] * 3)


def one_group_each(number):
    return {f"videoSRC{index:03d}": f"photo{index}" for index in range(1, number + 1)}


def groups_of(groups, splits):
    return [{groups[source] for source in splits if splits[source] == split} for split in SPLITS]


@given(groupings, shares)
def test_every_source_gets_one_split_and_no_group_two(groups, shares):
    splits = assign_splits(groups, shares)
    train, validation, test = groups_of(groups, splits)
    assert splits.keys() == groups.keys()
    assert set(splits.values()) <= set(SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test
    if len(set(groups.values())) >= 3:
        assert train
        assert validation
        assert test


@given(groupings, shares, st.randoms())
def test_splits_do_not_depend_on_the_order_of_input(groups, shares, random):
    shuffled = dict(random.sample(list(groups.items()), len(groups)))
    assert list(assign_splits(shuffled, shares).items()) == list(
        assign_splits(groups, shares).items()
    )


@given(st.integers(3, 60), shares)
def test_numbers_of_groups_follow_the_shares(number, shares):
    groups = one_group_each(number)
    for found, share in zip(groups_of(groups, assign_splits(groups, shares)), shares, strict=True):
        quota = number * share / sum(shares)
        # Largest remainder is off by less than one; a split kept from being empty costs two more.
        assert len(found) == 1 or -2 < len(found) - quota < 1 + 1e-9 or quota > number - 2


def test_shares_are_met_exactly_where_they_can_be():
    # 0.6, 0.15 and 0.25 of 220 are whole; so are those of 20, though 20 * 0.15 is not in binary.
    assert Counter(assign_splits(one_group_each(220)).values()) == dict(
        train=132, validation=33, test=55
    )
    assert Counter(assign_splits(one_group_each(20)).values()) == dict(
        train=12, validation=3, test=5
    )


def test_the_largest_remainder_gets_the_group_left_over():
    # Of 10 groups: 5.0, 3.3 and 1.7, so the tenth goes to test.
    counts = Counter(assign_splits(one_group_each(10), (0.5, 0.33, 0.17)).values())
    assert counts == dict(train=5, validation=3, test=2)


def test_groups_are_cut_in_the_order_of_their_hash():
    groups = one_group_each(20)
    ranked = sorted(groups, key=lambda s: hashlib.sha256(groups[s].encode()).hexdigest())
    splits = assign_splits(groups)
    assert [splits[source] for source in ranked] == ["train"] * 12 + ["validation"] * 3 + [
        "test"
    ] * 5


def test_shares_count_groups_whatever_their_size():
    groups = one_group_each(9) | {f"videoSRC{index:03d}": "photo1" for index in range(100, 200)}
    sizes = [len(found) for found in groups_of(groups, assign_splits(groups, (1.0, 1.0, 1.0)))]
    assert sizes == [3, 3, 3]


@pytest.mark.parametrize(
    ("number", "expected"), [(0, []), (1, ["train"]), (2, ["test", "train"]), (3, sorted(SPLITS))]
)
def test_few_groups(number, expected):
    assert sorted(assign_splits(one_group_each(number)).values()) == expected


def test_ids_that_are_not_utf8_are_ranked_too():
    # What `os.listdir` makes of a file name in Latin-1.
    assert assign_splits({"videoSRC001": "f\udcfcr"}) == {"videoSRC001": "train"}


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.6, 0.0, 0.4), (0.6, -0.1, 0.5), (1.0, float("inf"), 1.0)]
)
def test_invalid_shares_are_refused(shares):
    with pytest.raises(ValueError, match="three finite numbers above 0, got"):
        assign_splits(one_group_each(5), shares)


@given(groupings.filter(lambda groups: len(set(groups.values())) >= 2), st.data())
def test_folds_are_a_partition_by_groups_of_even_size(groups, data):
    num_groups = len(set(groups.values()))
    k = data.draw(st.integers(2, num_groups))
    result = folds(groups, k)
    sizes = [len({groups[source] for source in fold}) for fold in result]
    assert len(result) == k
    assert sorted(source for fold in result for source in fold) == sorted(groups)
    # A group in two folds would make the sum larger than the number of groups.
    assert sum(sizes) == num_groups
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@given(groupings.filter(lambda groups: len(set(groups.values())) >= 2), st.randoms())
def test_folds_do_not_depend_on_the_order_of_input(groups, random):
    shuffled = dict(random.sample(list(groups.items()), len(groups)))
    assert folds(shuffled, 2) == folds(groups, 2)


@pytest.mark.parametrize("k", [0, 1, 6])
def test_an_invalid_number_of_folds_is_refused(k):
    with pytest.raises(ValueError, match=rf"2..5 .*, got {k}"):
        folds(one_group_each(5), k)
