import os
import signal
import subprocess
import sys
import uuid

import pytest
from command_line import marked_processes

PROCESSES = """
import subprocess, sys, time
from laser_dist.commands.processes import stop_on_signals
stubborn = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)"
)
child = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True);"
    "time.sleep(60)"
)
with stop_on_signals():
    subprocess.Popen([sys.executable, "-c", child, stubborn])
    time.sleep(60)
"""


ORPHANED = """
import subprocess, sys, time
from laser_dist.commands.processes import adopt_orphans, stop_on_signals
grandchild = "import time; print('up', flush=True); time.sleep(60)"
child = (
    "import subprocess, sys;"
    "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
)
adopt_orphans()
with stop_on_signals():
    subprocess.run([sys.executable, "-c", child, grandchild])
    print("orphaned", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("code", "lines", "count"),
    [(PROCESSES, {"up"}, 3), (ORPHANED, {"up", "orphaned"}, 2)],
    ids=["one that ignores it", "one whose parent has exited"],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_descendants(code, lines, count, number):
    mark = f"LASER_JND_TEST_PROCESSES_{uuid.uuid4().hex}"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, mark: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert {parent.stdout.readline().strip() for _ in lines} == lines
        assert len(marked_processes(mark)) == count
        parent.send_signal(number)
        parent.wait(timeout=20)
    assert marked_processes(mark) == set()


HANGING = """
import sys, time
from pathlib import Path
from laser_dist.commands import processes
from laser_dist.storage.temporary import temporary_folder
processes.SECONDS_TO_STOP = processes.SECONDS_TO_CLEAN_UP = 0.2
with processes.stop_on_signals(), temporary_folder(Path(sys.argv[1])) as folder:
    try:
        print("up", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)
"""


def test_a_stopped_process_that_hangs_exits_and_removes_its_temporary_files(tmp_path):
    command = [sys.executable, "-c", HANGING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
    assert list(tmp_path.iterdir()) == []


REPLACING = """
import time
from laser_dist.commands import main
def run(arguments):
    try:
        print("up", flush=True)
        time.sleep(60)
    except BaseException:
        raise ImportError("initialization failed")  # as C++ libraries do
main.COMMANDS["models"].run = run
main.run(["models"])
"""


def test_a_stop_is_reported_as_such_whatever_error_a_library_makes_of_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", REPLACING],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "stopped\n")
