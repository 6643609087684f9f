"""A run is trained by one process at a time; what a lost process has left is claimed."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from laser_dist import storage
from laser_dist.errors import UserError
from laser_dist.storage import lease
from laser_dist.storage.lease import Lease, free, leased
from laser_dist.storage.run_files import RunFiles

pytestmark = [pytest.mark.slow, pytest.mark.attack("Runs")]

HOLD = """
import sys, time
from laser_dist.storage.run_files import RunFiles
from laser_dist.storage.lease import leased
with leased(RunFiles(sys.argv[1])):
    print(flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    for name, seconds in (
        ("HEARTBEAT_S", 0.05), ("EXPIRES_S", 1.0), ("SECONDS_BETWEEN_LOOKS", 0.05),
    ):  # fmt: skip
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture
def owner(machines):
    """A process of this machine that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, machines[0].location], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "\n"
    yield process
    process.kill()
    process.communicate()


def stored(store):
    return json.loads(storage.read_bytes(storage.join(store.location, "lease.json")))


def write(store, content):
    # Of one size, as the real ones: a reader of a bucket may take the size from the text before.
    text = f"{json.dumps(asdict(content)):<1000}"
    storage.write_text(storage.join(store.location, "lease.json"), text)


def elsewhere(**changes):
    """Return a lease of a process on another machine, whose clock is a quarter of an hour slow."""
    since = time.time() - 900
    return replace(Lease("node7", 1, 1234, 5.0, since, since), **changes)


def test_a_second_process_is_refused_until_the_first_is_killed(machines, owner, caplog):
    caplog.set_level("INFO")
    store = machines[1]
    before = stored(store)
    with pytest.raises(UserError) as refused, leased(store):
        pass
    host, since = before["host"], time.strftime("%Y-%m-%d", time.localtime(before["since_s"]))
    start = f"{store.location} is being trained by process {owner.pid} on host {host} since {since}"
    assert refused.value.message.startswith(start)
    assert stored(store)["pid"] == owner.pid

    owner.kill()  # not waited for: the process stays as a zombie
    deadline = time.monotonic() + 20
    while True:
        try:
            with leased(store):
                assert stored(store)["pid"] != owner.pid
            break
        except UserError:
            assert time.monotonic() < deadline
    assert f"The run is claimed from process {owner.pid} on host {host}" in caplog.text
    assert not storage.exists(storage.join(store.location, "lease.json"))


def test_a_heartbeat_of_another_machine_refuses_whatever_its_clock_says(machines, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRES_S", 60.0)  # the first heartbeat ends the wait
    store, over = machines[1], threading.Event()
    other = elsewhere()
    write(machines[0], other)

    def beat():
        while not over.wait(0.1):
            write(machines[0], replace(other, heartbeat_s=time.time() - 900))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="trained by process 1234 on host node7"):
            free(store)
    finally:
        over.set()
        thread.join()


def test_a_lease_without_heartbeats_is_claimed_after_it_has_expired(machines, caplog):
    caplog.set_level("INFO")
    write(machines[0], elsewhere())
    started = time.monotonic()
    free(machines[1])
    assert time.monotonic() - started > 0.9
    messages = [each.getMessage() for each in caplog.records if each.name == lease.__name__]
    assert [text.split(",")[0] for text in messages] == [
        "Waiting up to 1 s for a heartbeat of process 1234 on host node7",
        "The run is claimed from process 1234 on host node7",
    ]


def test_a_lease_of_an_hour_ago_is_claimed_at_once(machines):
    write(machines[0], elsewhere(heartbeat_s=time.time() - 4000))
    started = time.monotonic()
    with leased(machines[1]):
        assert time.monotonic() - started < 0.9


def test_a_container_that_starts_again_claims_the_lease_of_its_process_of_the_same_number(tmp_path):
    from laser_dist.storage.run_files import RunFiles

    store = RunFiles(str(tmp_path))
    with leased(store):
        own = Lease(**stored(store))
    write(store, replace(own, process_start_s=own.process_start_s - 100))
    free(store)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff"])
def test_a_damaged_lease_does_not_block_a_run(tmp_path, content):
    from laser_dist.storage.run_files import RunFiles

    (tmp_path / "lease.json").write_bytes(content)
    with leased(RunFiles(str(tmp_path))):
        pass


def test_the_heartbeat_continues_and_a_process_notices_that_it_has_lost_its_lease(machines):
    store = machines[0]
    with leased(store) as check:
        first = stored(store)["heartbeat_s"]
        wait_for(lambda: stored(store)["heartbeat_s"] > first)
        assert stored(store)["since_s"] <= first
        check()
        # A heartbeat of this process may replace one of the other, but not all.
        with pytest.raises(UserError, match="process 1234 on host node7 has claimed"):
            wait_for(lambda: write(machines[1], elsewhere()) or check())
    assert stored(store)["host"] == "node7"


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


WRITE = """
import sys, time
from pathlib import Path
from laser_dist.storage.files import atomic_path
from laser_dist.storage.run_files import RunFiles
from laser_dist.storage.lease import leased
with leased(RunFiles(sys.argv[1])), atomic_path(Path(sys.argv[1]) / "models" / "a.keras") as path:
    path.write_text("half")
    print(flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "\n"
    process.kill()
    process.communicate()
    (tmp_path / "models" / "b.keras").write_text("complete")
    assert len(list((tmp_path / "models").iterdir())) == 2
    with leased(RunFiles(str(tmp_path))):
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["b.keras"]
