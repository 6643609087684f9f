"""The library's functions, as far as they go without training; the notebook and the guide train."""

import json
import subprocess
import sys

import pytest

import laser_dist
from laser_dist.api import resolve_config
from laser_dist.errors import UserError
from laser_dist.models.variants import LAT, MJ_LAT
from laser_dist.training.config import PRESETS, to_dict


def test_settings_change_a_preset():
    found = resolve_config("lat", "tiny", {"levels": [1, 3], "heads.epochs": 7, "seed": 5})
    assert (found.levels, found.heads.epochs, found.seed) == ((1, 3), 7, 5)
    # All else is the preset's.
    unchanged = {"levels": (1, 2, 3), "heads.epochs": PRESETS["tiny"](LAT).heads.epochs, "seed": 0}
    assert resolve_config("lat", found, unchanged) == PRESETS["tiny"](LAT)


def test_a_printed_configuration_is_read_again(tmp_path):
    config = resolve_config("mj-lat", "large", {"jit_compile": True, "backbone.filters": 8})
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(to_dict(config)))
    assert resolve_config("mj-lat", path) == config
    with pytest.raises(UserError, match="has settings for mj-lat, not for rec"):
        resolve_config("rec", path)


@pytest.mark.parametrize(
    ("variant", "config", "settings", "message"),
    [
        ("mj-latt", "tiny", {}, "mj-latt"),
        ("lat", "tiny", {"heads.epoch": 3}, "heads.epoch"),
        ("lat", "tiny", {"heads.epochs": -1}, "heads.epochs"),
        ("lat", PRESETS["tiny"](MJ_LAT), {}, "for mj-lat, not for lat"),
        ("lat", "no/such/file.json", {}, "Cannot read the settings"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    tmp_path, variant, config, settings, message
):
    with pytest.raises(UserError, match=message):
        laser_dist.train(variant, tmp_path, tmp_path / "run", config=config, settings=settings)
    with pytest.raises(UserError, match=message):
        laser_dist.cross_validate(
            variant, tmp_path, tmp_path / "run", config=config, settings=settings
        )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_stage_and_a_missing_dataset_are_refused(tmp_path):
    with pytest.raises(UserError, match='lat has no stage "jnd4"'):
        laser_dist.train("lat", tmp_path, tmp_path / "run", config="tiny", stages=["jnd4"])
    with pytest.raises(UserError, match="holds no prepared dataset"):
        laser_dist.train("lat", tmp_path, tmp_path / "run", config="tiny")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_library_imports_no_framework():
    heavy = "{'tensorflow', 'keras', 'ray', 'apache_beam', 'pyarrow'}"
    script = f"import sys, laser_dist; laser_dist.train; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="trian"):
        laser_dist.trian  # noqa: B018 - the lookup fails
