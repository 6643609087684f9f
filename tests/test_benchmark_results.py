"""Files that the benchmarks write."""

import importlib
import json
from pathlib import Path

import pytest

FIELDS = {"title": "Train", "simulated": False, "summary": "Fast.", "notes": []}


@pytest.fixture
def results(monkeypatch, tmp_path):
    """Return the module, which writes to a temporary folder."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    module = importlib.import_module("results")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "machine", lambda: "here")
    return module


def captions(results):
    tables = json.loads((results.FOLDER / "train.json").read_text())["tables"]
    return {each["caption"]: each.get("machine") for each in tables}


def test_a_result_replaces_the_previous_one_except_what_it_keeps(results, monkeypatch):
    old, other = (results.table(caption, ["N"], [[1]]) for caption in ("old, 3 runs", "other"))
    results.write_result("train", tables=[old, other], **FIELDS)
    monkeypatch.setattr(results, "machine", lambda: "there")
    new = results.table("new", ["N"], [[2]])
    results.write_result("train", tables=[new], keep="old", **FIELDS)
    assert captions(results) == {"new": None, "old, 3 runs": "here"}
    results.write_result("train", tables=[other], **FIELDS)
    assert captions(results) == {"other": None}


def test_added_tables_leave_the_rest_of_a_result(results):
    one, other = (results.table(caption, ["N"], [[1]]) for caption in ("one", "other"))
    results.write_result("train", tables=[one], **FIELDS)
    results.add_tables("train", [results.table("one", ["N"], [[2]]), other])
    assert captions(results) == {"one": "here", "other": "here"}
    document = json.loads((results.FOLDER / "train.json").read_text())
    assert document["summary"] == "Fast."
    assert document["tables"][0]["rows"] == [[2]]
