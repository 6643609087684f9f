import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.errors import UserError
from laser_dist.models.specs import BackboneSpec, HeadSpec
from laser_dist.models.variants import VARIANTS
from laser_dist.training.config import (
    ClusterConfig,
    StageConfig,
    TrainingConfig,
    from_dict,
    known_paths,
    override,
    to_dict,
)
from laser_dist.training.presets import PRESETS

POSITIVE = st.floats(1e-9, 1e9)
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
            synchronized_norms=st.booleans(),
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
        early_stopping=st.none() | st.integers(1, 9),
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
        xla=draw(st.booleans()) and not cluster.synchronized_norms,
        checkpoint_every_steps=draw(st.none() | st.integers(1, 99)),
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
def test_a_config_survives_a_file(original):
    assert from_dict(json.loads(json.dumps(to_dict(original)))) == original


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_config_that_survives_a_file(name, variant):
    preset = PRESETS[name](variant)
    assert isinstance(preset, TrainingConfig)
    assert preset.variant == variant.name
    assert from_dict(json.loads(json.dumps(to_dict(preset)))) == preset


def test_the_known_paths_are_the_leaves_of_the_plain_config():
    def leaves(values, prefix=""):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    # All but the variant: a command names it.
    assert ["variant", *known_paths()] == list(leaves(to_dict(config())))


@given(configs(["mj-lat"]), configs(["mj-lat"]))
def test_any_config_becomes_any_other_by_its_paths(start, goal):
    def text_at(path):
        value = to_dict(goal)
        for key in path.split("."):
            value = value[key]
        if isinstance(value, list):
            return ",".join(map(str, value))
        return str(value).lower() if value is None or isinstance(value, bool) else str(value)

    assert override(start, [f"{path}={text_at(path)}" for path in known_paths()]) == goal


def test_an_override_changes_its_setting_alone_and_the_last_one_counts():
    changed = override(config(), ["heads.epochs=7", " head.filters = 8,16 ", "heads.epochs=9"])
    original = config()
    assert changed.heads == replace(original.heads, epochs=9)
    assert changed.head == replace(original.head, filters=(8, 16))
    assert replace(changed, heads=original.heads, head=original.head) == original == config()


def test_workers_and_the_batches_that_fit_them_change_together():
    # More workers alone are not allowed: batches of 4 do not reach 5 of them.
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
    "path", ["variant", "epochs", "heads.epoch", "heads", "head.filters.0", "seed.x", "", "a.b.c"]
)
def test_an_unknown_path_lists_the_known_ones(path):
    with pytest.raises(UserError) as caught:
        override(config(), [f"{path}=1"])
    assert caught.value.what == f"Setting {path}"
    assert caught.value.expected == "one of " + ", ".join(known_paths())


def test_an_unknown_key_in_a_file_lists_the_known_ones():
    values = to_dict(config())
    values["cluster"]["num_wrokers"] = 2
    known = ", ".join(sorted(values["cluster"].keys() - {"num_wrokers"}))
    with pytest.raises(UserError, match=rf"Setting num_wrokers: expected one of {known}, got"):
        from_dict(values)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("heads.epochs", r"--set heads\.epochs: expected path=value, got heads\.epochs\."),
        ("heads.epochs=many", r"Setting heads\.epochs: expected int, got many\."),
        ("heads.epochs=1.5", r"Setting heads\.epochs: expected int, got 1\.5\."),
        ("heads.learning_rate=high", r"heads\.learning_rate: expected float, got high\."),
        ("image.flips=yes", r"Setting image\.flips: expected bool, got yes\."),
        ("image.crop=whole", r"Setting image\.crop: expected int \| None, got whole\."),
        ("head.filters=8,x", r"head\.filters: expected tuple\[int, \.\.\.\], got 8,x\."),
        (
            "jnd.schedule=linear",
            "expected one of constant, cosine, plateau, got linear",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(assignment, message):
    with pytest.raises(UserError, match=message):
        override(config(), [assignment])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("heads.epochs=0", "Stage setting epochs: expected 1 or more, got 0"),
        ("heads.batch_size=-4", "Stage setting batch_size: expected 1 or more, got -4"),
        ("heads.learning_rate=0", r"learning_rate: expected above 0 and finite, got 0\.0"),
        ("heads.learning_rate=nan", "learning_rate: expected above 0 and finite, got nan"),
        ("heads.clip_norm=-1", r"clip_norm: expected above 0 and finite, got -1\.0"),
        ("heads.mixup=-0.1", r"mixup: expected 0 or more and finite, got -0\.1"),
        ("heads.mixup=inf", "mixup: expected 0 or more and finite, got inf"),
        ("heads.crop=16", "Setting heads.crop: expected none: levels are those of whole frames"),
        ("joint.crop=16", "Setting joint.crop: expected none"),
        ("joint.mixup=1", "Setting joint.mixup: expected 0: frames are not blended"),
        ("jnd.early_stopping=0", "early_stopping: expected none or 1 or more, got 0"),
        ("jnd.weight_decay=-1", r"weight_decay: expected 0 or more and finite, got -1\.0"),
        ("levels=2,1", r"Setting levels: expected some of 1,2,3, ascending, got \(2, 1\)"),
        ("levels=4", "Setting levels: expected some of 1,2,3"),
        ("levels=", "Setting levels: expected some of 1,2,3"),
        ("image.crop=48", r"Setting image\.crop: expected at most 32, .* got 48"),
        ("seed=-1", "Setting seed: expected from 0 to"),
        ("image.crop=24", "crop: expected none or a multiple of 16, got 24"),
        ("image.crop=0", "crop: expected none or a multiple of 16, got 0"),
        ("cluster.num_workers=0", "Cluster setting num_workers: expected 1 or more, got 0"),
        ("cluster.max_failures=-1", "Cluster setting max_failures: expected 0 or more, got -1"),
        ("backbone.height=20", "Model input height: expected a multiple of 16"),
        ("head.filters=", "Head setting filters: expected at least one"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(assignment, message):
    with pytest.raises(UserError, match=message):
        override(config(), [assignment])


def test_a_schedule_that_is_not_known_is_refused_in_python_too():
    with pytest.raises(UserError, match="expected one of constant, cosine, plateau, got linear"):
        StageConfig(epochs=1, schedule="linear")


@given(
    num_workers=st.integers(1, 4),
    gpus_per_worker=st.integers(0, 3),
    batch_size=st.integers(1, 24),
    stage=st.sampled_from(["image", "jnd", "heads", "joint"]),
)
def test_a_batch_must_fit_the_workers_devices(num_workers, gpus_per_worker, batch_size, stage):
    devices = num_workers * (gpus_per_worker or 1)  # without a GPU a worker has one device
    changes = {
        name: StageConfig(epochs=1, batch_size=devices)
        for name in ("image", "jnd", "heads", "joint")
    }
    changes[stage] = StageConfig(epochs=1, batch_size=batch_size)
    cluster = ClusterConfig(num_workers=num_workers, gpus_per_worker=gpus_per_worker)
    if batch_size >= devices:
        assert config(cluster=cluster, **changes).cluster == cluster
    else:
        message = (
            rf"Setting {stage}\.batch_size: expected at least {devices}, .* got {batch_size}\."
        )
        with pytest.raises(UserError, match=message):
            config(cluster=cluster, **changes)


def test_heads_of_one_level_each_cannot_be_ordered():
    assert override(config(), ["head.ordered=true"]).head.ordered
    with pytest.raises(UserError, match="head.ordered: expected false: heads of one level"):
        override(config(variant="lat"), ["head.ordered=true"])
