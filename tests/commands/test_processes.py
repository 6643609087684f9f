import os
import signal
import subprocess
import sys

import pytest
from command_line import marked_processes
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.commands.processes import descendants

FAMILY = """
import subprocess, sys, time
from laser_dist.commands.processes import stop_on_signals
stubborn = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(60)"
)
parent = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True);"
    "time.sleep(60)"
)
with stop_on_signals():
    subprocess.Popen([sys.executable, "-c", parent, stubborn])
    time.sleep(60)
"""


@given(st.dictionaries(st.integers(1, 30), st.integers(0, 30)))
def test_descendants_are_those_whose_line_of_parents_leads_here(parents):
    def leads_to(pid, root):
        seen = set()
        while pid in parents and pid not in seen:
            seen.add(pid)
            pid = parents[pid]
            if pid == root:
                return True
        return False

    for root in range(5):
        expected = {pid for pid in parents if pid != root and leads_to(pid, root)}
        assert descendants(root, parents) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_whole_family_the_stubborn_too(number):
    mark = f"LASER_JND_TEST_FAMILY_{os.getpid()}_{int(number)}"
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY],
        env={**os.environ, mark: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as family:
        assert family.stdout is not None
        assert family.stdout.readline() == "up\n"  # the grandchild ignores SIGTERM by now
        assert len(marked_processes(mark)) == 3
        family.send_signal(number)
        family.wait(timeout=20)
    assert marked_processes(mark) == set()
