import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold

from laser_dist.jnd.splits import SPLITS, assign_splits, cross_validation, folds

ids = st.text(min_size=1, max_size=6)
groupings = st.dictionaries(ids, ids, max_size=40)
shares = st.tuples(*[st.floats(0.001, 1.0)] * 3)


# Numbers of sources of the films of VideoSet.
FILM_SIZES = (31, 59, 11, 14, 5, 15, 13, 10, 9, 13, 40)


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


def videoset():
    """Return VideoSet's sources with the number of their film."""
    films = [film for film, size in enumerate(FILM_SIZES) for _ in range(size)]
    return {f"videoSRC{index:03d}": f"film{film}" for index, film in enumerate(films, start=1)}


def test_shares_count_sources_whatever_the_size_of_their_groups():
    splits = Counter(assign_splits(videoset()).values())
    # 60%, 15% and 25% of 220; films have 5 to 59 sources.
    for split, wanted in {"train": 132, "validation": 33, "test": 55}.items():
        assert abs(splits[split] - wanted) <= 2


@given(groupings, shares)
def test_no_split_is_further_from_its_share_than_a_group_is_large(groups, shares):
    sizes = Counter(groups.values())
    splits = Counter(assign_splits(groups, shares).values())
    for split, share in zip(SPLITS, shares, strict=True):
        wanted = len(groups) * share / sum(shares)
        # Two splits can be forced to have a group each, which the third lacks.
        assert abs(splits[split] - wanted) <= 2 * max(sizes.values(), default=0)


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


several_groups = groupings.filter(lambda groups: len(set(groups.values())) >= 2)


@given(several_groups, st.data(), st.integers(0, 3))
def test_folds_are_a_partition_by_groups(groups, data, seed):
    num_folds = data.draw(st.integers(2, len(set(groups.values()))))
    result = folds(groups, num_folds, seed=seed)
    assert len(result) == num_folds
    assert all(result)
    assert sorted(source for fold in result for source in fold) == sorted(groups)
    # A group in two folds would make the sum larger than the number of groups.
    counts = [len({groups[source] for source in fold}) for fold in result]
    assert sum(counts) == len(set(groups.values()))


@pytest.mark.parametrize("num_folds", [2, 3, 4, 5, 10, 11])
def test_folds_are_as_even_as_those_of_scikit_learn(num_folds):
    groups = videoset()
    rows = list(groups)
    found = GroupKFold(num_folds).split(rows, groups=list(groups.values()))
    sizes = sorted(len(test) for _, test in found)
    assert sorted(map(len, folds(groups, num_folds))) == sizes


def test_folds_of_groups_of_one_size_differ_by_one_group():
    groups = one_group_each(50)
    assert [len(fold) for fold in folds(groups, 10)] == [5] * 10  # as published for MCL-JCI
    assert sorted(len(fold) for fold in folds(groups, 8)) == [6] * 6 + [7] * 2


def test_the_seed_decides_which_groups_share_a_fold():
    groups = one_group_each(50)
    assert folds(groups, 5) == folds(groups, 5, seed=0)
    assert len({tuple(folds(groups, 5, seed=seed)) for seed in range(5)}) == 5


@given(several_groups, st.randoms())
def test_folds_do_not_depend_on_the_order_of_input(groups, random):
    shuffled = dict(random.sample(list(groups.items()), len(groups)))
    assert folds(shuffled, 2) == folds(groups, 2)


@pytest.mark.parametrize("num_folds", [0, 1, 6])
def test_an_invalid_number_of_folds_is_refused(num_folds):
    with pytest.raises(ValueError, match=rf"2 to 5, the number of groups: {num_folds}"):
        folds(one_group_each(5), num_folds)


@pytest.mark.parametrize("num_folds", [2, 4, 11])
def test_a_cross_validation_tests_each_source_once_and_splits_no_group(num_folds):
    groups = videoset()
    runs = cross_validation(groups, num_folds)
    assert sorted(source for run in runs for source in run["test"]) == sorted(groups)
    for run in runs:
        assert sorted(source for ids in run.values() for source in ids) == sorted(groups)
        in_groups = [{groups[source] for source in ids} for ids in run.values()]
        assert all(in_groups)
        assert sum(map(len, in_groups)) == len(set(groups.values()))
        assert len(run["validation"]) < len(run["train"])


def test_a_fold_that_leaves_one_group_is_refused():
    with pytest.raises(ValueError, match="2 to 1, the number of groups: 1"):
        cross_validation(one_group_each(2), 2)
