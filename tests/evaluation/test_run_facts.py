from pathlib import Path

import pytest

from laser_dist.errors import UserError
from laser_dist.evaluation.run_facts import run_facts

RUN = Path("runs/demo/train")


def test_facts_are_picked_from_the_configuration():
    config = {"variant": "mj-lat", "dataset": {"fingerprint": "abc", "name": "videoset_jnd"}}
    facts = run_facts(config, RUN)
    assert (facts.variant, facts.fingerprint, facts.trained_on) == ("mj-lat", "abc", frozenset())


def test_sources_are_taken_where_the_run_lists_them():
    dataset = {"fingerprint": "abc", "trained_on": ["videoSRC001", "videoSRC002"]}
    facts = run_facts({"variant": "mj-lat", "dataset": dataset}, RUN)
    assert facts.trained_on == {"videoSRC001", "videoSRC002"}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"variant": "mj-lat"},
        {"variant": "mj-lat", "dataset": {}},
        {"dataset": {"fingerprint": "a"}},
    ],
)
def test_a_run_that_does_not_say_what_it_was_trained_on_is_refused(config):
    with pytest.raises(UserError, match="fingerprint of the dataset it was trained on"):
        run_facts(config, RUN)
