"""Many clips on the command line: one that fails, formats, folders, lists, and continuing."""

import csv
import io
import json

import pytest
from command_line import laser_jnd_here, refusal
from onnx_graphs import write_light_inputs

from laser_dist.commands import predict as predict_command
from laser_dist.prediction import model
from laser_dist.prediction.clips import read_clip

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a model, two clips, a file that is none, and a text."""
    write_light_inputs(tmp_path)
    clips = tmp_path / "clips"
    (clips / "more").mkdir(parents=True)
    content = (tmp_path / "clip.mp4").read_bytes()
    (clips / "a.mp4").write_bytes(content)
    (clips / "b.mkv").write_bytes(b"no video")
    (clips / "more" / "c.mp4").write_bytes(content)
    (clips / "notes.txt").write_text("no clip")
    return tmp_path


def predict(folder, *words, model="m.onnx"):
    return laser_jnd_here("predict", *words, "--model", model, cwd=folder)


def test_one_bad_file_costs_that_file(folder):
    done = predict(folder, "clips/a.mp4", "clips/b.mkv", "clips/more/c.mp4")
    assert done.returncode == 2
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("clips/")]
    assert rows == ["clips/a.mp4", "clips/more/c.mp4"]
    assert "clips/b.mkv" in done.stderr
    assert "error: 1 of 3 clips could not be predicted." in done.stderr
    # A single clip is refused as every other input.
    assert "b.mkv" in refusal(predict(folder, "clips/b.mkv"))
    alone = predict(folder, "clips/b.mkv", "missing.mp4")
    assert (alone.returncode, alone.stdout) == (2, "")
    assert "error: 2 of 2 clips could not be predicted." in alone.stderr


def test_all_videos_below_a_folder_and_those_of_a_list(folder):
    assert "clips is a folder. Add --recursive." in refusal(predict(folder, "clips"))
    done = predict(folder, "clips", "--recursive", "--format", "ndjson")
    named = [json.loads(line)["clip"] for line in done.stdout.splitlines()]
    assert named == ["clips/a.mp4", "clips/b.mkv", "clips/more/c.mp4"]
    (folder / "list.txt").write_text("clips/more/c.mp4\n\n  clips/a.mp4\n")
    done = predict(folder, "@list.txt", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert [each["clip"] for each in json.loads(done.stdout)] == ["clips/more/c.mp4", "clips/a.mp4"]


def test_formats_have_the_same_numbers(folder):
    words = ("clips/a.mp4", "clips/b.mkv", "--format")
    (document, failed), rows, lines = (
        json.loads(predict(folder, *words, "json").stdout),
        list(csv.DictReader(io.StringIO(predict(folder, *words, "csv").stdout))),
        [json.loads(line) for line in predict(folder, *words, "ndjson").stdout.splitlines()],
    )
    assert lines == [document, failed]
    assert failed["error"] == rows[1]["error"]
    assert rows[1]["jnd1_quantizer"] == rows[1]["scale"] == rows[0]["error"] == ""
    assert [row["clip"] for row in rows] == ["clips/a.mp4", "clips/b.mkv"]
    assert (rows[0]["scale"], rows[0]["sur"], rows[0]["simulated"]) == ("QP", "0.75", "True")
    for name in ("jnd1", "jnd2", "jnd3"):
        assert int(rows[0][f"{name}_quantizer"]) == document["quantizers"][name] in (28, 29, 30, 31)
        assert float(rows[0][f"{name}_level"]) == document["levels"][name]


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_the_line_of_a_clip_is_there_before_the_next_clip_is_read(folder, monkeypatch, form):
    lines = []

    def read_after(source, sampling, take):
        lines.append(len((folder / "levels").read_text().splitlines()))
        return read_clip(source, sampling, take)

    # Otherwise the file of CSV appears when it is complete.
    monkeypatch.setattr(predict_command, "_opened", lambda _: (folder / "levels").open("w"))
    monkeypatch.setattr(model, "read_clip", read_after)
    words = ("clips/a.mp4", "clips/more/c.mp4", "--format", form, "--output", "levels")
    assert predict(folder, *words, "--no-isolate").returncode == 0
    assert lines == [0, 2 if form == "csv" else 1]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_an_output_file_has_what_is_otherwise_printed(folder, form):
    words = ("clips/a.mp4", "--format", form)
    done = predict(folder, *words, "--output", "new/levels")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (folder / "new" / "levels").read_text() == predict(folder, *words).stdout
    # One clip that fails leaves an earlier file as it was.
    assert (
        predict(folder, "clips/b.mkv", "--format", form, "--output", "new/levels").returncode == 2
    )
    assert (folder / "new" / "levels").read_text() == predict(folder, *words).stdout


def test_a_command_continues_after_the_clips_that_are_done(folder):
    words = ("clips", "--recursive", "--format", "ndjson", "--output", "levels.ndjson")
    assert predict(folder, *words).returncode == 2
    output = folder / "levels.ndjson"
    first, failed, last = output.read_text().splitlines()
    # As after a kill: the failed clip is there, and the last line is cut.
    output.write_text(f"{first}\n{failed}\n{last[:40]}")
    (folder / "clips" / "b.mkv").write_bytes((folder / "clip.mp4").read_bytes())
    (folder / "clips" / "a.mp4").write_bytes(b"would fail now")
    done = predict(folder, *words, "--resume")
    assert done.returncode == 0, done.stderr
    lines = output.read_text().splitlines()
    assert lines[0] == first
    assert lines[2] == last
    assert [json.loads(line)["clip"] for line in lines] == [
        "clips/a.mp4", "clips/b.mkv", "clips/more/c.mp4",
    ]  # fmt: skip
    again = predict(folder, *words, "--resume")
    assert (again.returncode, output.read_text().splitlines()) == (0, lines)
    same = predict(folder, *words, "--resume", model="./m.onnx")
    assert (same.returncode, output.read_text().splitlines()) == (0, lines)
    for key, other in (("model", "other.onnx"), ("sur", 0.9)):
        document = {**json.loads(lines[0]), key: other}
        output.write_text(f"{json.dumps(document)}\n")
        line = refusal(predict(folder, *words, "--resume"))
        assert "levels.ndjson has predictions of the model" in line
        assert f"{other}" in line
