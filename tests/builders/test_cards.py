"""The dataset cards state the splits that a build makes."""

import re
from pathlib import Path

import pytest

from laser_dist.jnd.splits import SPLITS, assign_splits
from laser_dist.jnd.videoset_layout import FILMS, film_of

CARDS = Path(__file__).parents[2] / "tfds_builders"
VIDEOSET = [f"videoSRC{number:03d}" for number in range(1, 221)]
MCL_JCI = [f"ImageJND_SRC{number:02d}" for number in range(1, 51)]


def table_of(dataset):
    """Return the cells of the row of each split."""
    text = (CARDS / dataset / "README.md").read_text()
    rows = re.findall(r"^\| `(train|validation|test)` \| (.*) \|$", text, re.MULTILINE)
    return {split: cells.split(" | ") for split, cells in rows}


def counts(splits):
    return {split: str(list(splits.values()).count(split)) for split in SPLITS}


@pytest.mark.parametrize(("dataset", "ids"), [("videoset_jnd", VIDEOSET), ("mcl_jci_jnd", MCL_JCI)])
def test_a_card_counts_the_sources_of_each_split(dataset, ids):
    found = {split: cells[-1] for split, cells in table_of(dataset).items()}
    assert found == counts(assign_splits({source: source for source in ids}))


def test_the_card_of_videoset_lists_the_films_of_each_split():
    films = {source: film_of(number) for number, source in enumerate(VIDEOSET, start=1)}
    splits = assign_splits(films)
    for split, cells in table_of("videoset_jnd").items():
        here = {films[source] for source in splits if splits[source] == split}
        listed = ", ".join(film for film in FILMS if film in here)
        assert cells[1] == f"{counts(splits)[split]}: {listed}"
