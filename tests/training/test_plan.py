from dataclasses import replace

import pytest

from laser_dist.models.variants import E2E_LAT, LAT, MJ_LAT, MJ_REC, VARIANTS, variant_named
from laser_dist.training import plan
from laser_dist.training.config import ClusterConfig, override, tiny, to_dict
from laser_dist.training.plan import inputs_of, key_of, plan_stages, waves, with_needs
from laser_dist.training.ray_entry import num_fitting, sessions


def stages_of(variant, levels=(1, 2, 3)):
    return [stage.name for stage in plan_stages(variant, levels)]


def test_each_variant_has_the_stages_that_it_depends_on():
    assert stages_of(MJ_LAT) == ["image", "jnd1", "jnd2", "jnd3", "mj-lat"]
    assert stages_of(MJ_REC, levels=(2,)) == ["image", "jnd1", "jnd2", "jnd3", "mj-rec"]
    assert stages_of(LAT, levels=(1, 3)) == ["image", "jnd1", "jnd3", "lat-jnd1", "lat-jnd3"]
    assert stages_of(E2E_LAT, levels=(2,)) == ["image", "e2e-lat-jnd2"]


def test_every_stage_comes_after_its_dependencies():
    for variant in VARIANTS:
        seen = set()
        for stage in plan_stages(variant, (1, 2, 3)):
            assert seen.issuperset(stage.needs)
            seen.add(stage.name)


def test_independent_stages_are_in_one_wave():
    plans = plan_stages(LAT, (1, 2))
    assert waves(plans, ()) == [("image",), ("jnd1", "jnd2"), ("lat-jnd1", "lat-jnd2")]
    assert waves(plans, {"image", "jnd1"}) == [("jnd2", "lat-jnd1"), ("lat-jnd2",)]
    assert waves(plans, {plan.name for plan in plans}) == []


def test_named_stages_include_their_dependencies():
    plans = plan_stages(MJ_LAT, (1, 2, 3))
    assert [plan.name for plan in with_needs(plans, ["jnd2"])] == ["image", "jnd2"]
    assert with_needs(plans, ["mj-lat"]) == plans


def test_a_cluster_with_free_resources_trains_stages_concurrently():
    groups = [("image",), ("jnd1", "jnd2", "jnd3"), ("mj-lat",)]
    assert sessions(groups, 1) == [[("image", "jnd1", "jnd2", "jnd3", "mj-lat")]]
    assert sessions(groups, 2) == [[("image",)], [("jnd1", "jnd3"), ("jnd2",)], [("mj-lat",)]]
    assert sessions(groups, 9) == [[("image",)], [("jnd1",), ("jnd2",), ("jnd3",)], [("mj-lat",)]]
    assert sessions([("image",), ("jnd1",)], 9) == [[("image", "jnd1")]]


def test_a_worker_needs_all_its_resources_on_one_node():
    cluster = ClusterConfig(cpus_per_worker=4)
    assert num_fitting(cluster, [{"CPU": 31.0}]) == 7
    assert num_fitting(cluster, [{"CPU": 3.0}, {"CPU": 3.0}]) == 0
    assert num_fitting(cluster, [{"CPU": 9.0}, {"CPU": 4.0}, {"memory": 1e9}]) == 3
    with_gpus = replace(cluster, gpus_per_worker=4)
    assert num_fitting(with_gpus, [{"CPU": 99.0, "GPU": 2.0}] * 4) == 0
    assert num_fitting(with_gpus, [{"CPU": 99.0, "GPU": 8.0}, {"CPU": 4.0, "GPU": 8.0}]) == 3
    assert num_fitting(with_gpus, [{"CPU": 99.0}]) == 0
    assert num_fitting(ClusterConfig(cpu_devices=2), [{"CPU": 5.0}]) == 2


def keys_of(config, fingerprint="data"):
    keys = {}
    for stage in plan_stages(variant_named(config.variant), config.levels):
        keys[stage.name] = key_of(inputs_of(stage, to_dict(config), fingerprint, keys))
    return keys


def test_a_stages_key_depends_only_on_inputs_that_change_its_model():
    base = keys_of(tiny(MJ_LAT))

    def same(assignments, variant=MJ_LAT, fingerprint="data"):
        other = keys_of(override(tiny(variant), assignments), fingerprint)
        return {name for name in base if base[name] == other.get(name)}

    assert same(["cluster.cpu_devices=1", "cluster.num_workers=2"]) == set(base)
    assert same(["feature_cache=false", "jit_compile=true"]) == set(base)
    assert same(["heads.epochs=3"]) == {"image", "jnd1", "jnd2", "jnd3"}
    assert same(["jnd.epochs=3"]) == {"image"}
    assert same([], variant=MJ_REC) == {"image", "jnd1", "jnd2", "jnd3"}
    assert same([], variant=E2E_LAT) == {"image"}
    assert same(["backbone_start=random"]) == set()
    assert same(["head.start=zero"]) == {"image", "jnd1", "jnd2", "jnd3"}
    for everything in (
        ["image.epochs=9"],
        ["seed=1"],
        ["backbone.filters=8"],
        ["synchronized_batch_norm=true"],
        ["learning_rate_scaling=sqrt"],
    ):
        assert same(everything) == set()
    assert same([], fingerprint="other") == set()


@pytest.mark.parametrize("change", ["keras", "recipe"])
def test_models_of_other_code_are_not_taken_for_the_same(monkeypatch, change):
    before = keys_of(tiny(MJ_LAT))
    if change == "keras":
        monkeypatch.setattr(plan.metadata, "version", lambda package: f"other {package}")
    else:
        monkeypatch.setattr(plan, "RECIPE", 2)
    after = keys_of(tiny(MJ_LAT))
    assert not {*before.values()} & {*after.values()}
