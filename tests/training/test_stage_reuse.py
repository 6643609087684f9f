import json

import pytest

from laser_dist.errors import UserError
from laser_dist.models.variants import MJ_LAT, MJ_REC
from laser_dist.training.config import override, tiny, to_dict
from laser_dist.training.plan import inputs_of, key_of, plan_stages
from laser_dist.training.reuse import (
    decide,
    model_names,
    model_path,
    needed,
    pretrained_backbones,
    write_record,
)

BACKBONES = {"image", "jnd1", "jnd2", "jnd3"}


def finish(run_dir, variant=MJ_LAT, assignments=(), fingerprint="data"):
    """Write files as a finished run leaves them; a model's content names its run."""
    training, keys = to_dict(override(tiny(variant), assignments)), {}
    for plan in plan_stages(variant, (1, 2, 3)):
        inputs = inputs_of(plan, training, fingerprint, keys)
        keys[plan.name] = key_of(inputs)
        for name in model_names(plan):
            model_path(run_dir, name).parent.mkdir(parents=True, exist_ok=True)
            model_path(run_dir, name).write_text(f"{name} of {run_dir.name}")
        write_record(run_dir, plan, keys[plan.name], inputs)


def decisions_for(run_dir, variant=MJ_REC, assignments=(), pretrained=None):
    training = to_dict(override(tiny(variant), assignments))
    plans = plan_stages(variant, (1, 2, 3))
    return {each.stage: each for each in decide(plans, training, "data", run_dir, pretrained)}


def reused(decisions):
    return {name for name, each in decisions.items() if not each.trains}


def test_a_new_run_trains_every_stage_even_next_to_a_finished_run(tmp_path):
    finish(tmp_path / "first")
    assert reused(decisions_for(tmp_path / "second", MJ_LAT)) == set()


def test_stages_that_the_run_has_trained_are_reused(tmp_path):
    finish(tmp_path / "run")
    decisions = decisions_for(tmp_path / "run", MJ_LAT)
    assert reused(decisions) == {*BACKBONES, "mj-lat"}
    assert decisions["image"].source == "this run"


def test_a_stage_with_other_inputs_and_those_that_start_from_it_are_trained(tmp_path):
    finish(tmp_path / "run")
    assert reused(decisions_for(tmp_path / "run", MJ_LAT, ["jnd.epochs=9"])) == {"image"}
    assert reused(decisions_for(tmp_path / "run", MJ_LAT, ["seed=9"])) == set()


def test_a_stage_without_its_record_or_file_is_trained(tmp_path):
    finish(tmp_path / "run")
    model_path(tmp_path / "run", "jnd1").unlink()
    (tmp_path / "run" / "models" / "jnd2.json").unlink()
    assert reused(decisions_for(tmp_path / "run", MJ_LAT)) == {"image", "jnd3"}


def test_a_stage_with_a_damaged_record_is_trained(tmp_path):
    finish(tmp_path / "run")
    path = tmp_path / "run" / "models" / "image.json"
    assert json.loads(path.read_text())["inputs"]["seed"] == 0
    path.write_text("{")
    assert decisions_for(tmp_path / "run")["image"].trains


def test_a_head_is_trained_if_its_backbones_file_differs_despite_equal_settings(tmp_path):
    finish(tmp_path / "run")
    model_path(tmp_path / "run", "jnd2").write_text("trained again")
    assert reused(decisions_for(tmp_path / "run", MJ_LAT)) == BACKBONES


def test_pretrained_backbones_are_reused_however_they_were_trained(tmp_path):
    finish(tmp_path / "first", assignments=["image.epochs=9"])
    decisions = decisions_for(tmp_path / "second", pretrained=tmp_path / "first")
    assert reused(decisions) == BACKBONES
    assert decisions["image"].source == "init-from"
    assert model_path(tmp_path / "second", "image").read_text() == "image of first"
    # A resumed run reuses them too.
    later = decisions_for(tmp_path / "second")
    assert {name: each.key for name, each in later.items()} == {
        name: each.key for name, each in decisions.items()
    }
    assert reused(later) == BACKBONES


def test_backbones_that_are_missing_in_a_folder_of_models_are_trained(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "image.keras").write_text("weights")
    plans = plan_stages(MJ_REC, (1, 2, 3))
    assert pretrained_backbones(weights, "weights", plans) == [weights / "image.keras"]
    decisions = decisions_for(tmp_path / "run", pretrained=weights)
    assert reused(decisions) == {"image"}
    own = decisions_for(tmp_path / "other")
    assert own["jnd1"].key != decisions["jnd1"].key  # it starts from another model


def test_a_folder_without_backbones_is_refused(tmp_path):
    with pytest.raises(UserError, match="s3://b/x has none of the backbones image.keras, jnd1"):
        pretrained_backbones(tmp_path, "s3://b/x", plan_stages(MJ_REC, (1, 2, 3)))


def test_a_stage_that_no_other_stage_needs_is_skipped(tmp_path):
    (tmp_path / "weights").mkdir()
    for name in ("jnd1", "jnd2", "jnd3"):
        (tmp_path / "weights" / f"{name}.keras").write_text("weights")
    plans = plan_stages(MJ_REC, (1, 2, 3))
    decisions = [*decisions_for(tmp_path / "run", pretrained=tmp_path / "weights").values()]
    names = [each.stage for each in needed(plans, decisions, ["mj-rec"])]
    assert names == ["jnd1", "jnd2", "jnd3", "mj-rec"]
    new = [*decisions_for(tmp_path / "other").values()]
    assert needed(plans, new, ["mj-rec"]) == new
    assert [each.stage for each in needed(plans, new, ["jnd2"])] == ["image", "jnd2"]
