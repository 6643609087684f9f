import json
from pathlib import Path

import pytest

from laser_dist.errors import UserError
from laser_dist.evaluation.run_facts import run_facts
from laser_dist.training.runs import read_dataset_card

RUN = Path("runs/demo/train")


def test_facts_are_picked_from_the_configuration():
    splits = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    config = {"variant": "mj-lat", "dataset": {"fingerprint": "abc", "splits": splits}}
    facts = run_facts(config, RUN)
    assert (facts.variant, facts.fingerprint) == ("mj-lat", "abc")
    assert facts.trained_on == {"a", "b", "c"}


def test_the_configuration_that_training_writes_has_them(tmp_path):
    splits = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    info = {"name": "videoset_jnd", "configName": "synthetic", "version": "1.0.0"}
    about = {"fingerprint": "abc", "scale": "QP", "simulated": True, "splits": splits}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "metadata.json").write_text(json.dumps(about))
    config = {"variant": "mj-lat", "dataset": read_dataset_card(tmp_path)}
    assert run_facts(config, RUN).trained_on == {"a", "b"}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"variant": "mj-lat"},
        {"variant": "mj-lat", "dataset": {}},
        {"variant": "mj-lat", "dataset": {"fingerprint": "a"}},
        {"dataset": {"fingerprint": "a", "splits": {}}},
    ],
)
def test_a_run_that_does_not_say_what_it_was_trained_on_is_refused(config):
    with pytest.raises(UserError, match="fingerprint and splits of the dataset it was trained on"):
        run_facts(config, RUN)
