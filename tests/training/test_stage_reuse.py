import json

import pytest

from laser_dist.errors import UserError
from laser_dist.models.variants import MJ_LAT, MJ_REC
from laser_dist.training.config import override, tiny, to_dict
from laser_dist.training.plan import inputs_of, key_of, plan_stages
from laser_dist.training.reuse import model_names, model_path, needed, take_over, write_record

BACKBONES = {"image", "jnd1", "jnd2", "jnd3"}


def finish(run_dir, variant=MJ_LAT, assignments=(), fingerprint="data"):
    """Files as a finished run leaves them; a model's content tells whose it is."""
    training, keys = to_dict(override(tiny(variant), assignments)), {}
    for plan in plan_stages(variant, (1, 2, 3)):
        inputs = inputs_of(plan, training, fingerprint, keys)
        keys[plan.name] = key_of(inputs)
        for name in model_names(plan):
            model_path(run_dir, name).parent.mkdir(parents=True, exist_ok=True)
            model_path(run_dir, name).write_text(f"{name} of {run_dir.name}")
        write_record(run_dir, plan, keys[plan.name], inputs)


def decide(run_dir, variant=MJ_REC, assignments=(), **settings):
    training = to_dict(override(tiny(variant), assignments))
    plans = plan_stages(variant, (1, 2, 3))
    return {d.stage: d for d in take_over(plans, training, "data", run_dir, **settings)}


def test_what_another_run_has_of_the_same_settings_and_data_is_taken(tmp_path):
    finish(tmp_path / "first")
    decisions = decide(tmp_path / "second", beside=[tmp_path / "first", tmp_path / "second"])
    assert {name for name, each in decisions.items() if not each.trains} == BACKBONES
    assert decisions["jnd1"].why == f"of {tmp_path / 'first'}, same settings and data"
    for name in BACKBONES:
        assert model_path(tmp_path / "second", name).read_text() == f"{name} of first"
    again = decide(tmp_path / "second")
    assert again["image"].why == "trained here before"
    assert not again["image"].trains


@pytest.mark.parametrize(
    ("other", "kept", "why"),
    [
        ({"assignments": ["jnd.epochs=9"]}, {"image"}, "another jnd.epochs"),
        ({"assignments": ["seed=9"]}, set(), "another "),
        ({"fingerprint": "other"}, set(), "another "),
    ],
)
def test_what_differs_is_trained_and_said_why(tmp_path, other, kept, why):
    finish(tmp_path / "first", **other)
    decisions = decide(tmp_path / "second", beside=[tmp_path / "first"])
    assert {name for name, each in decisions.items() if not each.trains} == kept
    assert why in decisions["jnd2"].why
    assert str(tmp_path / "first") in decisions["jnd2"].why


def test_a_model_whose_record_or_file_is_missing_is_not_taken(tmp_path):
    finish(tmp_path / "first")
    model_path(tmp_path / "first", "jnd1").unlink()
    (tmp_path / "first" / "models" / "jnd2.json").unlink()
    decisions = decide(tmp_path / "second", beside=[tmp_path / "first"])
    assert {name for name, each in decisions.items() if not each.trains} == {"image", "jnd3"}


def test_given_backbones_are_taken_however_they_were_trained(tmp_path):
    finish(tmp_path / "first", assignments=["image.epochs=9"], fingerprint="other")
    decisions = decide(tmp_path / "second", given=tmp_path / "first")
    assert {name for name, each in decisions.items() if not each.trains} == BACKBONES
    assert decisions["image"].why == "as given"
    # Also when the run goes on, and nobody says it again.
    later = decide(tmp_path / "second")
    assert {name: each.key for name, each in later.items()} == {
        name: each.key for name, each in decisions.items()
    }
    assert not later["image"].trains


def test_a_folder_of_models_can_be_given_and_the_rest_is_trained(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "image.keras").write_text("weights")
    decisions = decide(tmp_path / "run", given=tmp_path / "weights")
    assert [name for name, each in decisions.items() if not each.trains] == ["image"]
    own = decide(tmp_path / "other")
    assert own["jnd1"].key != decisions["jnd1"].key  # it starts from another model
    with pytest.raises(UserError, match="expected one of image.keras, jnd1.keras"):
        decide(tmp_path / "third", given=tmp_path / "nothing")


def test_a_damaged_record_is_none(tmp_path):
    finish(tmp_path / "first")
    path = tmp_path / "first" / "models" / "image.json"
    assert json.loads(path.read_text())["inputs"]["seed"] == 0
    path.write_text("{")
    decisions = decide(tmp_path / "second", beside=[tmp_path / "first"])
    assert decisions["image"].trains


def test_a_head_is_not_taken_where_the_backbone_is_another_training_of_the_same_settings(tmp_path):
    finish(tmp_path / "first")
    finish(tmp_path / "second")  # the same settings, and other files
    (tmp_path / "second" / "models" / "mj-lat.json").unlink()
    decisions = decide(tmp_path / "second", MJ_LAT, beside=[tmp_path / "first"])
    assert {name for name, each in decisions.items() if each.trains} == {"mj-lat"}
    decisions = decide(tmp_path / "third", MJ_LAT, beside=[tmp_path / "first"])
    assert not any(each.trains for each in decisions.values())


def test_what_starts_from_a_stage_that_is_trained_now_is_trained_too(tmp_path):
    finish(tmp_path / "first")
    (tmp_path / "first" / "models" / "jnd2.json").unlink()
    decisions = decide(tmp_path / "second", MJ_LAT, beside=[tmp_path / "first"])
    assert {name for name, each in decisions.items() if each.trains} == {"jnd2", "mj-lat"}


def test_a_given_backbone_is_not_said_to_have_other_settings(tmp_path):
    finish(tmp_path / "first")
    decide(tmp_path / "second", given=tmp_path / "first")
    decisions = decide(tmp_path / "third", beside=[tmp_path / "second"])
    assert decisions["image"].why == f"the one of {tmp_path / 'second'} was given, not trained"


def test_a_stage_of_which_nothing_is_made_is_left_out(tmp_path):
    (tmp_path / "weights").mkdir()
    for name in ("jnd1", "jnd2", "jnd3"):
        (tmp_path / "weights" / f"{name}.keras").write_text("weights")
    plans = plan_stages(MJ_REC, (1, 2, 3))
    decisions = [*decide(tmp_path / "run", given=tmp_path / "weights").values()]
    names = [each.stage for each in needed(plans, decisions, ["mj-rec"])]
    assert names == ["jnd1", "jnd2", "jnd3", "mj-rec"]
    fresh = [*decide(tmp_path / "other").values()]
    assert needed(plans, fresh, ["mj-rec"]) == fresh
    assert [each.stage for each in needed(plans, fresh, ["jnd2"])] == ["image", "jnd2"]
