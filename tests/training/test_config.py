import json
import operator
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laser_dist.errors import UserError
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import VARIANTS
from laser_dist.training.config import (
    PRESETS,
    ClusterConfig,
    StageConfig,
    TrainingConfig,
    describe_settings,
    from_dict,
    override,
    to_dict,
)

POSITIVE = st.floats(1e-9, 1e9)
UNITS = ["step", "steps", "epoch", "epochs", "minute", "minutes"]
SIZES = st.lists(st.integers(1, 512), max_size=4).map(tuple)
SIDES = st.integers(1, 20).map(lambda count: 16 * count)


@st.composite
def configs(draw, variants=("lat", "mj-lat", "mj-rec")):
    backbone = draw(st.builds(BackboneSpec, height=SIDES, width=SIDES))
    squares = st.integers(1, min(backbone.height, backbone.width) // 16)
    cluster = draw(
        st.builds(
            ClusterConfig,
            num_workers=st.integers(1, 4),
            cpus_per_worker=st.integers(1, 8),
            gpus_per_worker=st.integers(0, 2),
            max_failures=st.integers(0, 5),
            hang_timeout_s=st.integers(5, 5000),
        )
    )
    devices = cluster.num_workers * max(1, cluster.gpus_per_worker)
    stages = st.builds(
        StageConfig,
        epochs=st.integers(1, 500),
        batch_size=st.integers(devices, 8 * devices),
        learning_rate=POSITIVE,
        schedule=st.sampled_from(["constant", "cosine", "plateau"]),
        clip_norm=POSITIVE,
        weight_decay=st.floats(0, 9),
        patience=st.none() | st.integers(1, 9),
        flips=st.booleans(),
        crop=st.none() | squares.map(lambda count: 16 * count),
        crops_per_frame=st.integers(1, 9),
        mixup=st.floats(0, 9),
    )
    heads = st.builds(
        HeadSpec,
        filters=SIZES.filter(len),
        pool_every=st.integers(1, 3),
        attention_ratio=st.none() | st.integers(1, 16),
        dense=SIZES,
        shared_dense=st.booleans(),
        pooling=st.sampled_from(["flatten", "average"]),
        output=st.just("linear"),
        ordered=st.just(False),
        spread=st.booleans(),
        knee=st.none() | POSITIVE,
    )
    return TrainingConfig(
        variant=draw(st.sampled_from(variants)),
        backbone=backbone,
        head=draw(heads),
        image=draw(stages),
        jnd=draw(stages),
        heads=replace(draw(stages), crop=None),
        joint=replace(draw(stages), crop=None, mixup=0.0),
        levels=draw(st.sampled_from([(1,), (1, 3), (1, 2, 3)])),
        cluster=cluster,
        seed=draw(st.integers(0, 2**31 - 1)),
        precision=draw(st.sampled_from(["float32", "bfloat16"])),
        synchronized_batch_norm=(synchronized := draw(st.booleans())),
        jit_compile=draw(st.booleans()) and not synchronized,
        checkpoint_every=f"{draw(st.integers(1, 99))} {draw(st.sampled_from(UNITS))}",
        feature_cache=draw(st.booleans()),
    )


def config(**changes):
    stage = StageConfig(epochs=3, batch_size=4)
    fields = {
        "variant": "mj-lat",
        "backbone": BackboneSpec(height=32, width=48),
        "head": HeadSpec(filters=(4,)),
        "image": stage,
        "jnd": stage,
        "heads": stage,
        "joint": stage,
        "cluster": ClusterConfig(num_workers=1),
    }
    return TrainingConfig(**fields | changes)


@given(configs())
def test_a_config_is_unchanged_after_a_json_round_trip(original):
    assert from_dict(json.loads(json.dumps(to_dict(original)))) == original


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_unchanged_after_a_json_round_trip(name, variant):
    preset = PRESETS[name](variant)
    assert isinstance(preset, TrainingConfig)
    assert preset.variant == variant.name
    assert from_dict(json.loads(json.dumps(to_dict(preset)))) == preset


def test_every_setting_is_described_once_in_the_order_of_the_config_dict():
    def leaves(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    # All except the variant, which is an argument of the command.
    described = [each.path for each in describe_settings()]
    assert ["variant", *described] == list(leaves(to_dict(config())))


def test_a_description_has_the_meaning_the_range_and_the_defaults():
    settings = {each.path: each for each in describe_settings("lat")}
    assert all(each.meaning.endswith(".") for each in settings.values())
    epochs = settings["heads.epochs"]
    assert epochs.type == "integer, 1 or more"
    assert epochs.defaults == {"tiny": "12", "paper": "300", "large": "100"}
    assert epochs.meaning == "Number of passes over the training split."
    assert settings["head.pooling"].type == "flatten or average"
    assert settings["image.learning_rate"].type == "number, more than 0 and finite"
    assert settings["image.crop"].type == "integer or none, 16 or more and a multiple of 16"


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_learning_rates_follow_the_batch_size_by_the_named_rule(scaling, factor):
    joint = StageConfig(epochs=1, batch_size=32, base_batch_size=8, learning_rate=1e-3)
    scaled = config(joint=joint, learning_rate_scaling=scaling).scaled("joint")
    assert scaled.learning_rate == pytest.approx(factor * 1e-3)
    assert replace(scaled, learning_rate=1e-3) == joint


def test_the_batch_per_replica_counts_all_devices_and_yields_to_an_explicit_size():
    changes = ["cluster.num_workers=8", "cluster.min_workers=4", "cluster.gpus_per_worker=4"]
    found = override(PRESETS["paper"](VARIANTS[0]), [*changes, "heads.batch_size=48"], 2)
    sizes = [getattr(found, name).batch_size for name in ("image", "jnd", "heads", "joint")]
    assert sizes == [2 * 8 * 4, 2 * 8 * 4, 48, 2 * 8 * 4]


@pytest.mark.parametrize("name", PRESETS)
def test_described_defaults_make_the_preset(name):
    preset = PRESETS[name](VARIANTS[-1])
    rows = describe_settings(preset.variant)
    start = replace(config(variant=preset.variant), seed=5)
    assert override(start, [f"{each.path}={each.defaults[name]}" for each in rows]) == preset


@settings(max_examples=20)  # each changes all settings
@given(configs(["mj-lat"]), configs(["mj-lat"]))
def test_overrides_can_change_any_config_into_any_other(start, goal):
    def text_at(path):
        value = to_dict(goal)
        for key in path.split("."):
            value = value[key]
        if isinstance(value, list):
            return ",".join(map(str, value))
        return str(value).lower() if value is None or isinstance(value, bool) else str(value)

    paths = [each.path for each in describe_settings()]
    assert override(start, [f"{path}={text_at(path)}" for path in paths]) == goal


def test_an_override_changes_only_its_setting_and_the_last_override_applies():
    changed = override(config(), ["heads.epochs=7", " head.filters = 8,16 ", "heads.epochs=9"])
    original = config()
    assert changed.heads == replace(original.heads, epochs=9)
    assert changed.head == replace(original.head, filters=(8, 16))
    assert replace(changed, heads=original.heads, head=original.head) == original == config()


def test_workers_and_batch_sizes_can_change_together():
    # More workers with the same batch sizes are refused: a batch of 4 is too small for 5 workers.
    batch_sizes = [f"{stage}.batch_size=5" for stage in ("image", "jnd", "heads", "joint")]
    start = config(cluster=ClusterConfig(num_workers=2))
    with pytest.raises(UserError, match="at least 5"):
        override(start, ["cluster.num_workers=5"])
    for assignments in (
        ["cluster.num_workers=5", *batch_sizes],
        [*batch_sizes, "cluster.num_workers=5"],
    ):
        changed = override(start, assignments)
        assert (changed.cluster.num_workers, changed.jnd.batch_size) == (5, 5)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("heads.epoch", 'Did you mean "heads.epochs"?'),
        ("cluster.num_wrokers", 'Did you mean "cluster.num_workers"?'),
        ("a.b.c", "Run `laser-jnd settings` to list all settings."),
        ("variant", None),
        ("epochs", None),
        ("heads", None),
        ("head.filters.0", None),
        ("seed.x", None),
        ("", None),
    ],
)
def test_an_unknown_path_is_refused(path, hint):
    with pytest.raises(UserError) as caught:
        override(config(), [f"{path}=1"])
    assert caught.value.message == f"There is no setting `{path}`."
    assert hint in (None, caught.value.hint)


def test_an_unknown_key_in_a_file_is_refused():
    values = to_dict(config())
    values["cluster"]["num_wrokers"] = 2
    with pytest.raises(UserError, match='no setting `num_wrokers`.\n.*Did you mean "num_workers"'):
        from_dict(values)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("heads.epochs", "`--set heads.epochs` is not of the form PATH=VALUE."),
        ("heads.epochs=many", "`heads.epochs` must be an integer, but is 'many'."),
        ("heads.epochs=1.5", "`heads.epochs` must be an integer, but is '1.5'."),
        ("heads.learning_rate=high", "`heads.learning_rate` must be a number, but is 'high'."),
        ("image.flips=yes", "`image.flips` must be true or false, but is 'yes'."),
        ("image.crop=all", "`image.crop` must be an integer or none, but is 'all'."),
        ("head.filters=8,x", "`head.filters` must be integers separated by commas, but is '8,x'."),
        ("jnd.schedule=linear", "`jnd.schedule` must be constant, cosine or plateau, "),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(assignment, message):
    with pytest.raises(UserError) as caught:
        override(config(), [assignment])
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("heads.epochs=0", "`heads.epochs` must be 1 or more, but is 0."),
        ("heads.batch_size=-4", "`heads.batch_size` must be 1 or more, but is -4."),
        ("heads.learning_rate=0", "must be more than 0 and finite, but is 0.0."),
        ("heads.learning_rate=nan", "must be more than 0 and finite, but is nan."),
        ("heads.clip_norm=-1", "`heads.clip_norm` must be more than 0 and finite, but is -1.0."),
        ("heads.mixup=-0.1", "`heads.mixup` must be 0 or more and finite, but is -0.1."),
        ("heads.mixup=inf", "`heads.mixup` must be 0 or more and finite, but is inf."),
        ("heads.crop=16", "`heads.crop` must be none: levels belong to full frames, but is 16."),
        ("joint.crop=16", "`joint.crop` must be none"),
        ("joint.mixup=1", "`joint.mixup` must be 0: frames are not blended, but is 1.0."),
        ("jnd.patience=0", "`jnd.patience` must be 1 or more, but is 0."),
        ("jnd.weight_decay=-1", "`jnd.weight_decay` must be 0 or more and finite, but is -1.0."),
        ("levels=2,1", "`levels` must be some of 1,2,3 in ascending order, but is 2,1."),
        ("levels=4", "`levels` must be some of 1,2,3"),
        ("levels=", "`levels` must be some of 1,2,3"),
        ("image.crop=48", "`image.crop` must be at most 32, the frame's shorter side, but is 48."),
        ("seed=-1", "`seed` must be 0 or more and below 2**31, but is -1."),
        ("seed=2147483648", "`seed` must be 0 or more and below 2**31, but is 2147483648."),
        ("image.crop=24", "`image.crop` must be 16 or more and a multiple of 16, but is 24."),
        ("image.crop=0", "`image.crop` must be 16 or more and a multiple of 16, but is 0."),
        ("cluster.num_workers=0", "`cluster.num_workers` must be 1 or more, but is 0."),
        ("cluster.min_workers=2", "must be at most cluster.num_workers (1), but is 2."),
        ("cluster.cpu_devices=0", "`cluster.cpu_devices` must be 1 or more, but is 0."),
        ("cluster.max_failures=-1", "`cluster.max_failures` must be 0 or more, but is -1."),
        ("backbone.height=20", "height"),
        ("head.filters=", "filters"),
    ],
)
def test_a_value_out_of_range_is_refused(assignment, message):
    with pytest.raises(UserError) as caught:
        override(config(), [assignment])
    assert message in caught.value.message


def test_an_unknown_schedule_is_refused_in_python_too():
    with pytest.raises(UserError, match="must be constant, cosine or plateau, but is linear"):
        config(heads=StageConfig(epochs=1, schedule="linear"))


@given(
    num_workers=st.integers(1, 4),
    gpus_per_worker=st.integers(0, 3),
    batch_size=st.integers(1, 24),
    stage=st.sampled_from(["image", "jnd", "heads", "joint"]),
)
def test_a_batch_needs_an_example_per_device(num_workers, gpus_per_worker, batch_size, stage):
    devices = num_workers * (gpus_per_worker or 1)  # a worker without GPUs counts as one device
    changes = {
        name: StageConfig(epochs=1, batch_size=devices)
        for name in ("image", "jnd", "heads", "joint")
    }
    changes[stage] = StageConfig(epochs=1, batch_size=batch_size)
    cluster = ClusterConfig(num_workers=num_workers, gpus_per_worker=gpus_per_worker)
    if batch_size >= devices:
        assert config(cluster=cluster, **changes).cluster == cluster
    else:
        message = rf"`{stage}\.batch_size` must be at least {devices}, .* but is {batch_size}\."
        with pytest.raises(UserError, match=message):
            config(cluster=cluster, **changes)


def test_logical_cpu_devices_are_for_one_worker_without_gpus():
    cluster = ClusterConfig(cpu_devices=3, cpus_per_worker=2)
    assert (cluster.num_devices, cluster.num_cpus) == (3, 3)
    for change in ("num_workers", "gpus_per_worker"):
        with pytest.raises(UserError, match=r"`cluster\.cpu_devices` must be 1 with .* but is 3"):
            config(cluster=replace(cluster, **{change: 2}))


def test_heads_with_one_level_cannot_be_ordered():
    assert override(config(), ["head.ordered=true"]).head.ordered
    with pytest.raises(UserError, match="`head.ordered` must be false for lat"):
        override(config(variant="lat"), ["head.ordered=true"])


def test_the_large_preset_caches_all_frames_of_videoset():
    # 220 sources of 5 s at 30 frames per second, each frame raw and at three levels, 640x352 RGB.
    needed = 220 * 150 * 4 * (640 * 352 * 3)
    assert PRESETS["large"](VARIANTS[0]).frame_cache_gb * 1e9 >= needed


def test_each_difference_from_the_paper_can_be_undone_as_documented():
    documented = re.findall(
        r"`--set (\S+)=(\S+)`", " ".join((PRESETS["paper"].__doc__ or "").split())
    )
    assert dict(documented) == {
        "heads.clip_norm": "none",
        "head.output": "relu",
        "head.start": "zero",
        "head.norm_momentum": "0.99",
        "backbone_start": "random",
    }
    for variant in VARIANTS:
        before = PRESETS["paper"](variant)
        others = [(f"{stage}.clip_norm", "none") for stage in ("image", "jnd", "joint")]
        for path, value in [*documented, *others]:
            after = override(before, [f"{path}={value}"])
            found = operator.attrgetter(path)(after)
            assert found == (None if value == "none" else type(found)(value))
            assert found != operator.attrgetter(path)(before)


def test_a_training_that_may_grow_saves_at_least_twice_before_it_does():
    grows = ["cluster.cpu_devices=1", "cluster.num_workers=4", "cluster.min_workers=2"]
    for every, seconds in (("3 epochs", 300), ("2 minutes", 120), ("10 minutes", 300)):
        changes = [*grows, f"checkpoint_every={every}", "cluster.resize_interval_s=600"]
        found = override(PRESETS["tiny"](VARIANTS[0]), changes).checkpoint_interval
        assert found.seconds == seconds
