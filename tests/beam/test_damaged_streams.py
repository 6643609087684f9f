"""Hundreds of damaged streams, each read, checked and measured as in a build.

Each stream becomes a reject, or a row that describes the decoded frames of the file. Not every
damaged file can be a reject. H.264 and JPEG have no checksum: a stream with a changed bit is often
a valid stream of another picture. But a row must describe real frames. FFmpeg decodes all of them
without an error and without concealment. Their number and size are those of the reference, and the
measured values are those of exactly these frames.

A third of the damage is to headers. Of a thousand such streams, 66% were detected as damaged. 24%
left every frame unchanged, because the damage affects data that is not shown, such as x264's
settings; a row may then contain a damaged encoder version. 10% passed as another picture: 7% of
H.264 streams, and 17% of JPEG streams, whose pixels depend on less data. FFmpeg's other
`err_detect` flags (crccheck, bitstream, buffer, careful, compliant, aggressive) detect none of
these; without `explode`, twice as many would pass.
"""

from collections import Counter

import damaged_streams
import pytest
from damaged_streams import OTHER, REJECTED, SAME

from laser_dist.isolation import Crashed, Isolated

NUM_STREAMS = 400
BATCH = 100
CLIP_SECONDS = 30.0
CRASHED = "crashed"


def all_outcomes(streams, folder, numbers):
    """Return outcomes by number, including crashes and timeouts of the codec's process."""
    isolated = Isolated(CLIP_SECONDS)
    found = {}
    try:
        for start in range(0, len(numbers), BATCH):
            remaining = list(numbers[start : start + BATCH])
            while remaining:
                try:
                    found |= isolated.call(damaged_streams.outcomes, folder, streams, remaining)
                    break
                except Crashed as crash:
                    found[crash.step] = CRASHED if "killed by" in crash.how else crash.how
                    remaining.remove(crash.step)
    finally:
        isolated.close()
    return found


@pytest.fixture(scope="module")
def streams():
    return damaged_streams.good_streams()


def test_each_intact_stream_gives_a_row(streams, tmp_path):
    outcomes = {
        name: damaged_streams.outcome(tmp_path, name, content, content)
        for name, content in streams.items()
    }
    assert set(outcomes.values()) == {SAME}


@pytest.mark.slow
def test_each_damaged_stream_becomes_a_reject_or_a_row_of_its_frames(streams, tmp_path):
    outcomes = all_outcomes(streams, str(tmp_path), range(NUM_STREAMS))
    assert sorted(outcomes) == list(range(NUM_STREAMS))
    counts = Counter(outcomes.values())
    # A build rejects a clip that crashes the decoder too, but FFmpeg has no known crash.
    assert set(counts) <= {REJECTED, SAME, OTHER, CRASHED}
    assert counts[CRASHED] <= 1
    names = sorted(streams)
    kinds = [name.rpartition(".")[2] for name in names]
    by_kind = Counter((kinds[number % len(names)], outcome) for number, outcome in outcomes.items())
    for kind in set(kinds):
        share = by_kind[kind, OTHER] * len(names) / (NUM_STREAMS * kinds.count(kind))
        assert share < {"264": 0.12, "mp4": 0.12, "jpg": 0.25}[kind], by_kind
    assert counts[REJECTED] > 0.55 * NUM_STREAMS
