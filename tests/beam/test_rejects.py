import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.rejects import (
    Reject,
    RejectLimit,
    check_reject_rate,
    impaired_sources,
    lost_sources,
    read_rejects,
    write_rejects,
)
from beam_pipelines.runner import WriteRejects, translate_failures
from laser_dist.errors import UserError

pytestmark = pytest.mark.slow


def lost(index, what="source"):
    return Reject(what=what, where=f"videoSRC{index:03d}", stage="measure", why="truncated")


def damaged_clip(index, qp):
    where, source_id = f"videoSRC{index:03d}_qp_{qp:02d}.264", f"videoSRC{index:03d}"
    return Reject(what="clip", where=where, stage="measure", why="truncated", source_id=source_id)


@given(
    gone=st.sets(st.integers(0, 30)),
    damaged=st.sets(st.tuples(st.integers(0, 30), st.integers(1, 51)), max_size=40),
    harmless=st.integers(0, 50),
    total=st.integers(31, 900),
)
def test_the_rate_counts_each_affected_source_once(gone, damaged, harmless, total):
    rejects = [
        *(lost(index) for index in gone),
        *(damaged_clip(*clip) for clip in damaged),
        *(lost(index, what) for index in range(harmless) for what in ("copy", "archive", "file")),
    ]
    affected = gone | {index for index, _ in damaged}
    assert lost_sources(rejects) == {f"videoSRC{index:03d}" for index in gone}
    assert impaired_sources(rejects) == {f"videoSRC{index:03d}" for index in affected}
    if 20 * len(affected) <= total:
        check_reject_rate(rejects, total)
    else:
        text = f"{len(affected)} of {total} sources have rejected inputs, more than the accepted 5%"
        with pytest.raises(UserError, match=text):
            check_reject_rate(rejects, total)


@pytest.mark.parametrize(("share", "is_refused"), [(0.0, True), (0.24, True), (0.25, False)])
def test_the_largest_rate_itself_is_accepted(share, is_refused):
    rejects = [damaged_clip(1, qp) for qp in range(1, 52)]  # one source of four
    if is_refused:
        with pytest.raises(UserError, match=f"more than the accepted {100 * share:g}%"):
            check_reject_rate(rejects, 4, max_rate=share)
    else:
        check_reject_rate(rejects, 4, max_rate=share)


def test_the_message_names_the_first_three_rejects():
    with pytest.raises(UserError) as error:
        check_reject_rate([lost(0, "copy"), *(lost(i) for i in range(1, 6))], 10)
    assert str(error.value) == (
        "5 of 10 sources have rejected inputs, more than the accepted 5%: "
        "source videoSRC001 (measure): truncated; source videoSRC002 (measure): truncated; "
        "source videoSRC003 (measure): truncated; and 2 more.\n"
        "hint: Fix or remove these inputs, then run the command again."
    )


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    name = b"videoSRC\xff.264".decode("utf-8", "surrogateescape")  # as Python lists such a file
    write_rejects([Reject(what="file", where=name, stage="find", why=name)], 1, tmp_path / "r")
    ((reject,), _) = read_rejects(tmp_path / "r")
    assert reject.where == reject.why == "videoSRC\\udcff.264"


def test_a_table_is_read_as_written(tmp_path):
    path = tmp_path / "rejects.parquet"
    write_rejects([lost(1), lost(2, "clip")], 7, path)
    assert read_rejects(path) == ((lost(1), lost(2, "clip")), 7)
    write_rejects([], 7, path)
    assert read_rejects(path) == ((), 7)
    assert [p.name for p in tmp_path.iterdir()] == ["rejects.parquet"]


def test_few_rejects_are_written_in_order_with_those_found_before(tmp_path):
    limit = RejectLimit(refusal=tmp_path / "refusal", found=[lost(3)], total=60)
    step = WriteRejects(tmp_path / "r.parquet", limit)
    assert list(step.process([lost(9), lost(1)])) == [3]
    assert read_rejects(tmp_path / "r.parquet") == ((lost(1), lost(3), lost(9)), 60)
    assert not (tmp_path / "refusal").exists()


def refused_in_a_worker(folder, refusal):
    with translate_failures(refusal, folder):
        assert not refusal.exists()
        try:
            limit = RejectLimit(refusal=refusal, found=(), total=4)
            list(WriteRejects(folder / "r", limit).process([lost(1)]))
        except UserError as error:
            raise RuntimeError(f"Error received from SDK harness: {error}") from None


def test_a_refusal_survives_the_text_that_beam_makes_of_it(tmp_path):
    refusal = tmp_path / "refusal.parquet"
    write_rejects([], 1, refusal)  # from an earlier run: must not count
    with pytest.raises(UserError, match=r"(?s)1 of 4 sources.*videoSRC001.*listed in .*refusal"):
        refused_in_a_worker(tmp_path, refusal)
    assert read_rejects(refusal) == ((lost(1),), 4)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path, code):
    text = f"Traceback ...\nOSError: {OSError(code, 'as the system puts it')} [while running]"
    with (
        pytest.raises(UserError, match=f"Output folder {tmp_path} cannot be written"),
        translate_failures(tmp_path / "refusal", tmp_path),
    ):
        raise RuntimeError(text)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), UserError("It failed.")])
def test_any_other_failure_is_not_translated(tmp_path, error):
    with pytest.raises(type(error)) as raised, translate_failures(tmp_path / "refusal", tmp_path):
        raise error
    assert raised.value is error
