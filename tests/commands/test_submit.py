"""What `laser-jnd submit` sends, refuses and tells, without a cluster."""

import asyncio
import json
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from command_line import laser_jnd

from laser_dist.commands import submit
from laser_dist.commands.job_logs import Following, exit_status, follow
from laser_dist.commands.ray_head import Head, find_head, token_error
from laser_dist.errors import UserError

TRAIN = ("train", "lat", "--preset", "tiny", "--dataset", "/data/x", "--output", "/runs/x")
LOG = "".join(f"line {number}\n" for number in range(40))


class Status(str):
    """As Ray's: a text that knows whether it is an end."""

    def is_terminal(self):
        return self in {"SUCCEEDED", "FAILED", "STOPPED"}


@dataclass
class Details:
    status: str = "SUCCEEDED"
    driver_exit_code: int | None = None


class UnsteadyJobs:
    """A job whose log comes in pieces, through connections that break or fall silent."""

    def __init__(self, connections, piece=7, errors=()):
        self.connections = list(connections)  # (characters that come through, how it ends)
        self.piece = piece
        self.errors = list(errors)  # of the next questions for the job's state

    async def tail_job_logs(self, job_id):
        length, end = self.connections.pop(0)
        for start in range(0, length, self.piece):
            yield LOG[start : min(start + self.piece, length)]
        if end == "breaks":
            raise RuntimeError("WebSocket connection closed unexpectedly")
        if end == "falls silent":
            await asyncio.sleep(60)

    def get_job_logs(self, job_id):
        return LOG

    def get_job_info(self, job_id):
        if self.errors:
            raise self.errors.pop(0)
        return Details(Status("RUNNING" if self.connections else "SUCCEEDED"))


def followed(jobs, **how):
    written = []
    quick = Following(**({"silence": 0.05, "pause": 0.0} | how))
    details = asyncio.run(follow(jobs, "job", written.append, quick))
    return "".join(written), details


@pytest.mark.parametrize("end", ["breaks", "falls silent", "ends"])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_log_is_written_once_whatever_the_connection_does(end, piece):
    connections = [(0, end), (10, end), (3, end), (10, end), (200, end), (len(LOG), "ends")]
    written, details = followed(UnsteadyJobs(connections, piece))
    assert written == LOG
    assert details.status == "SUCCEEDED"


def test_what_the_last_connection_did_not_bring_is_written_at_the_end():
    written, _ = followed(UnsteadyJobs([(20, "breaks")]))
    assert written == LOG


def test_a_head_that_answers_again_is_forgiven_and_one_that_does_not_is_told():
    gone = [ConnectionError("refused")] * 3
    written, _ = followed(UnsteadyJobs([(5, "breaks")] * 3 + [(len(LOG), "ends")], errors=gone))
    assert written == LOG
    jobs = UnsteadyJobs([(5, "breaks")] * 3, errors=gone)
    with pytest.raises(UserError, match="a head that answers, got refused"):
        followed(jobs, patience=-1.0)


def test_a_job_that_its_head_has_forgotten_is_told():
    jobs = UnsteadyJobs([(5, "breaks")], errors=[RuntimeError("failed with status code 404: x")])
    with pytest.raises(UserError, match="submit the command again"):
        followed(jobs)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("SUCCEEDED", None, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
    ],
)
def test_the_exit_status_is_the_commands(status, code, expected):
    assert exit_status(Details(status, code)) == expected


def test_the_option_goes_before_the_environment_and_a_scheme_is_added():
    environment = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_API_SERVER_ADDRESS": "http://b:8265"}
    assert find_head("a:8265", environment) == Head("http://a:8265", "--address")
    assert find_head(None, environment) == Head("http://b:8265", "RAY_API_SERVER_ADDRESS")
    assert find_head("", {"RAY_ADDRESS": "10.0.0.1:6379"}) == Head("10.0.0.1:6379", "RAY_ADDRESS")
    assert find_head(None, {}).address is None


def test_a_password_in_an_address_is_not_shown():
    assert str(Head("https://me:secret@a:8265", "--address")) == "Ray head https://a:8265"
    assert "secret" not in submit.ray_command("logs", "job", "https://me:secret@a:8265")


def test_no_token_is_sent_or_told(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "hush")
    assert "hush" not in json.dumps(submit.runtime_environment(TRAIN, None))
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "hush"}
    for said in ("Unauthorized: Missing authentication token", "Forbidden: Invalid token"):
        assert "hush" not in str(token_error(Head("http://a", "--address"), said, environment))


def test_the_command_keeps_its_words(tmp_path):
    words = [*TRAIN, "--set", "head.filters=4,4", "--from", "/runs/a b"]
    assert submit.entrypoint(words, None) == (
        "laser-jnd train lat --preset tiny --dataset /data/x --output /runs/x "
        "--set head.filters=4,4 --from '/runs/a b'"
    )
    assert submit.entrypoint(["train"], tmp_path) == "laser-jnd train"
    (tmp_path / "laser_dist").mkdir()
    assert submit.entrypoint(["train"], tmp_path) == "python -m laser_dist.commands.main train"


def test_a_folder_is_sent_only_where_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    alone = submit.runtime_environment(TRAIN, None)
    assert set(alone) == {"env_vars"}
    assert alone["env_vars"]["KERAS_BACKEND"] == "tensorflow"
    sent = submit.runtime_environment(TRAIN, tmp_path)
    assert sent["working_dir"] == str(tmp_path.resolve())
    assert {".git", ".venv", "/runs", ".env"} <= set(sent["excludes"])
    with pytest.raises(UserError, match="--working-dir .*: expected a folder"):
        submit.runtime_environment(TRAIN, tmp_path / "nothing")


def test_what_stays_here_is_not_in_the_package_that_ray_makes(tmp_path):
    from ray.dashboard.modules.dashboard_sdk import create_package

    for name in (".git/x", ".venv/x", "runs/x", ".env", "laser_dist/x.py", "laser_dist/data/x.py"):
        path = tmp_path / "code" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    excludes = submit.runtime_environment(TRAIN, tmp_path / "code")["excludes"]
    create_package(
        str(tmp_path / "code"), tmp_path / "code.zip", include_gitignore=True, excludes=excludes
    )
    names = zipfile.ZipFile(tmp_path / "code.zip").namelist()
    assert {name for name in names if not name.endswith("/")} == {
        "laser_dist/x.py",
        "laser_dist/data/x.py",
    }


def test_a_command_is_checked_before_it_is_sent():
    assert submit.check(TRAIN, sent=False) == []
    for words, text in (
        ([], "got none"),
        (["demo"], "got demo"),
        (["submit", *TRAIN], "got submit"),
        ([*TRAIN, "--set", "image.epochz=3"], "There is no setting `image.epochz`"),
        (["train", "lat", "--preset", "tiny"], "expected --dataset, got none"),
    ):
        with pytest.raises(UserError, match=text):
            submit.check(words, sent=False)
    with pytest.raises(SystemExit):
        submit.check([*TRAIN, "--color", "red"], sent=False)


def test_relative_paths_are_told():
    words = ["train", "lat", "--preset", "tiny", "--dataset", "data"]
    (note,) = submit.check(words, sent=False)
    assert note.endswith("its own folder: data, --storage, which is not named")
    (note,) = submit.check(words, sent=True)
    assert "the folder sent" in note
    words = ["train", "lat", "--dataset", "/data", "--storage", "/run", "--from", "runs/first"]
    (note,) = submit.check([*words, "--preset", "tiny"], sent=False)
    assert note.endswith("its own folder: runs/first")


@contextmanager
def answering(status, text):
    """A server on loopback that gives one answer to all questions."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (200, json.dumps({"version": "4", "ray_version": "2.9.3"}), "got Ray 2.9.3. Install the"),
        (200, "<html>hello</html>", "answer, got"),
        (404, "not here", "answer, got"),
        (500, "broken", "answer, got"),
    ],
    ids=["another version", "a web page", "no head", "broken"],
)
def test_what_is_no_head_of_this_version_is_one_line(status, text, told):
    with answering(status, text) as address:
        done = laser_jnd("submit", "--address", address, *TRAIN)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


def test_an_address_where_nothing_listens_is_one_line():
    done = laser_jnd("submit", "--address", "http://127.0.0.1:1", *TRAIN)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "Check the address (of --address)" in done.stderr


def test_a_missing_package_names_the_extra():
    code = (
        "import sys; from laser_dist.commands import main\n"
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'aiohttp' else find(name)\n"
        f"sys.exit(main.run(['submit', '--address', 'http://127.0.0.1:1', *{TRAIN!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 2
    assert "pip install 'laser-jnd[cluster]'" in done.stderr
    assert done.stderr.count("\n") == 1
