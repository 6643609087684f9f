import pytest

from laser_dist import storage
from laser_dist.commands import datasets, demo, synthesize
from laser_dist.errors import UserError
from laser_dist.storage import list_files
from laser_dist.storage.prepared_datasets import find_dataset


def test_a_synthetic_dataset_of_other_settings_is_not_reused(tmp_path):
    wanted = {"kind": "videoset", "fingerprint": "a", "settings": {"seed": 0, "qps": (1, 2)}}
    synthesize.check_same(tmp_path, wanted, wanted)
    other = {**wanted, "fingerprint": "b", "settings": {"seed": 1, "qps": [1, 2]}}
    with pytest.raises(UserError, match="made with another seed"):
        synthesize.check_same(tmp_path, other, wanted)
    moved = {**wanted, "fingerprint": "c", "settings": {"seed": 0, "qps": [1, 2]}}
    with pytest.raises(UserError, match="made with another choice of footage"):
        synthesize.check_same(tmp_path, moved, wanted)


def test_a_synthetic_dataset_of_another_kind_is_not_reused(tmp_path):
    videoset = {"kind": "videoset", "fingerprint": "a", "settings": {"qps": [1, 2]}}
    mcl_jci = {"kind": "mcl-jci", "fingerprint": "b", "settings": {"qfs": [1, 100]}}
    for found, wanted, text in (
        (videoset, mcl_jci, "of kind videoset, not mcl-jci"),
        (mcl_jci, videoset, "of kind mcl-jci, not videoset"),
    ):
        with pytest.raises(UserError, match=text):
            synthesize.check_same(tmp_path, found, wanted)


def test_qps():
    assert synthesize.parse_qps("all") == tuple(range(1, 52))
    assert synthesize.parse_qps("30,16,30") == (16, 30)


def test_another_dataset_is_refused_and_the_hint_says_how_to_replace_it(tmp_path):
    datasets.check_same(tmp_path, {"input_fingerprint": "a"}, "a", tmp_path)
    with pytest.raises(UserError, match="Replace it with --overwrite"):
        datasets.check_same(tmp_path, {"input_fingerprint": "b"}, "a", tmp_path)


def test_a_replaced_dataset_is_restored_if_the_build_fails(tmp_path):
    folder = tmp_path / "1.0.0"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ValueError, match="half way"), storage.set_aside(folder):  # noqa: PT012
        folder.mkdir()
        (folder / "half").touch()
        raise ValueError("half way")
    assert [path.name for path in folder.iterdir()] == ["old"]
    with storage.set_aside(folder):
        folder.mkdir()
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["1.0.0", "new"]


@pytest.mark.parametrize(
    ("resolutions", "config"),
    [
        (["256x144"], "synthetic"),
        (["1280x720"], "720p"),
        (["1280x720", "640x360"], "360p"),
        ([], "360p"),
    ],
)
def test_the_configuration_follows_from_the_label_files(resolutions, config, tmp_path):
    for resolution in resolutions:
        (tmp_path / f"{resolution}_1st.csv").touch()
    assert datasets.choose_config("videoset_jnd", list_files(tmp_path)) == config


def test_a_dataset_is_found_from_each_of_its_three_parent_folders(tmp_path):
    folder = tmp_path / "data" / "videoset_jnd" / "synthetic" / "2.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").touch()
    for start in (folder, *list(folder.parents)[:3]):
        assert find_dataset(start) == str(folder)
    with pytest.raises(UserError, match="holds no prepared dataset"):
        find_dataset(tmp_path)


def test_the_demo_replaces_only_a_run(tmp_path):
    run = tmp_path / "run"
    demo.check_free(run)
    run.mkdir()
    demo.check_free(run)
    (run / "thesis.tex").touch()
    with pytest.raises(UserError, match="run, which has other files in it"):
        demo.check_free(run)
    (run / "config.json").write_text('{"model": "of another program"}')
    with pytest.raises(UserError, match="run, which has other files in it"):
        demo.check_free(run)
    (run / "config.json").write_text('{"variant": "lat", "training": {}, "dataset": {}}')
    demo.check_free(run)


def test_what_a_killed_build_has_set_aside_is_restored_and_never_found(tmp_path):
    aside = tmp_path / "name" / "config" / ".1.0.0.replaced"
    aside.mkdir(parents=True)
    (aside / "dataset_info.json").touch()
    with pytest.raises(UserError, match="holds no prepared dataset"):
        find_dataset(tmp_path)
    folder = aside.with_name("1.0.0")
    with pytest.raises(ValueError, match="again"), storage.set_aside(folder):
        raise ValueError("again")
    assert find_dataset(tmp_path) == str(folder)
    assert not aside.exists()


@pytest.mark.slow
def test_the_constants_of_commands_equal_those_of_the_libraries():
    from beam_pipelines.rejects import MAX_REJECT_RATE
    from beam_pipelines.synthetic.mcl_jci import MclJciSettings
    from beam_pipelines.synthetic.videoset import VideosetSettings
    from tfds_builders.mcl_jci_jnd.mcl_jci_jnd_dataset_builder import Builder as MclJci
    from tfds_builders.videoset_jnd.videoset_jnd_dataset_builder import Builder

    assert {c.name: c.resolution for c in Builder.BUILDER_CONFIGS} == datasets.RESOLUTIONS
    assert {c.name for c in MclJci.BUILDER_CONFIGS} == set(datasets.CONFIGS[datasets.MCL_JCI])
    assert datasets.MAX_REJECT_RATE == MAX_REJECT_RATE
    kinds = {
        "videoset": VideosetSettings(),
        "mcl-jci": MclJciSettings(),
    }
    assert kinds.keys() == synthesize.KINDS.keys()
    for name, settings in kinds.items():
        kind = synthesize.KINDS[name]
        known = (kind.num_sources, kind.num_frames, kind.max_sources)
        assert known == (settings.num_sources, settings.num_frames, settings.MAX_SOURCES)
        assert f"{settings.width}x{settings.height}" == datasets.RESOLUTIONS["synthetic"]
