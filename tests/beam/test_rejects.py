import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.rejects import Reject, check_share, impaired_sources, lost_sources
from beam_pipelines.rejects_table import (
    WriteRejects,
    clear_failures,
    read_rejects,
    write_rejects,
)
from laser_dist.errors import UserError


def lost(index, what="source"):
    return Reject(what=what, where=f"videoSRC{index:03d}", stage="measure", why="cut short")


def damaged_clip(index, qp):
    where, source_id = f"videoSRC{index:03d}_qp_{qp:02d}.264", f"videoSRC{index:03d}"
    return Reject(what="clip", where=where, stage="measure", why="cut", source_id=source_id)


@given(
    gone=st.sets(st.integers(0, 30)),
    damaged=st.sets(st.tuples(st.integers(0, 30), st.integers(1, 51)), max_size=40),
    harmless=st.integers(0, 50),
    total=st.integers(31, 900),
)
def test_the_share_is_of_distinct_sources_lost_or_impaired(gone, damaged, harmless, total):
    rejects = [
        *(lost(index) for index in gone),
        *(damaged_clip(*clip) for clip in damaged),
        *(lost(index, what) for index in range(harmless) for what in ("copy", "archive", "file")),
    ]
    concerned = gone | {index for index, _ in damaged}
    assert lost_sources(rejects) == {f"videoSRC{index:03d}" for index in gone}
    assert impaired_sources(rejects) == {f"videoSRC{index:03d}" for index in concerned}
    if 20 * len(concerned) <= total:
        check_share(rejects, total)
    else:
        expected = rf"at most 5% of them with rejects, got {len(concerned)} \({{}} in all\)"
        with pytest.raises(UserError, match=expected.format(len(gone) + len(damaged))):
            check_share(rejects, total)


@pytest.mark.parametrize(("share", "is_refused"), [(0.0, True), (0.24, True), (0.25, False)])
def test_the_largest_share_itself_is_allowed(share, is_refused):
    rejects = [damaged_clip(1, qp) for qp in range(1, 52)]  # one source of four
    if is_refused:
        with pytest.raises(UserError, match=f"at most {100 * share:g}% of them"):
            check_share(rejects, 4, max_share=share)
    else:
        check_share(rejects, 4, max_share=share)


def test_the_message_names_the_first_three():
    with pytest.raises(UserError) as error:
        check_share([lost(0, "copy"), *(lost(i) for i in range(1, 6))], 10)
    assert str(error.value) == (
        "Work on 10 sources: expected at most 5% of them with rejects, got 5 (5 in all): "
        "source videoSRC001 (measure): cut short; source videoSRC002 (measure): cut short; "
        "source videoSRC003 (measure): cut short; …. "
        "Mend or remove these inputs, then start again."
    )


def test_names_that_are_no_text_are_written_as_numbers(tmp_path):
    name = b"videoSRC\xff.264".decode("utf-8", "surrogateescape")  # as Python lists such a file
    write_rejects([Reject(what="file", where=name, stage="find", why=name)], 1, tmp_path / "r")
    ((reject,), _) = read_rejects(tmp_path / "r")
    assert reject.where == reject.why == "videoSRC\\udcff.264"


def test_a_table_reads_back(tmp_path):
    path = tmp_path / "rejects.parquet"
    write_rejects([lost(1), lost(2, "clip")], 7, path)
    assert read_rejects(path) == ((lost(1), lost(2, "clip")), 7)
    write_rejects([], 7, path)
    assert read_rejects(path) == ((), 7)
    assert [p.name for p in tmp_path.iterdir()] == ["rejects.parquet"]


def test_few_rejects_are_written_with_those_found_before_in_order(tmp_path):
    step = WriteRejects(tmp_path / "r.parquet", tmp_path / "refusal", [lost(3)], total=60)
    assert list(step.process([lost(9), lost(1)])) == [3]
    assert read_rejects(tmp_path / "r.parquet") == ((lost(1), lost(3), lost(9)), 60)
    assert not (tmp_path / "refusal").exists()


def refused_in_a_worker(folder, refusal):
    with clear_failures(refusal, folder):
        assert not refusal.exists()
        try:
            list(WriteRejects(folder / "r", refusal, (), total=4).process([lost(1)]))
        except UserError as error:
            raise RuntimeError(f"Error received from SDK harness: {error}") from None


def test_a_refusal_outlives_the_text_that_beam_makes_of_it(tmp_path):
    refusal = tmp_path / "refusal.parquet"
    write_rejects([], 1, refusal)  # of an earlier run: must not be taken for this one's
    with pytest.raises(
        UserError, match=r"got 1 \(1 in all\): source videoSRC001.*All of them: .*refusal"
    ):
        refused_in_a_worker(tmp_path, refusal)
    assert read_rejects(refusal) == ((lost(1),), 4)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_is_the_users_to_mend(tmp_path, code):
    text = f"Traceback ...\nOSError: {OSError(code, 'as the system puts it')} [while running]"
    with (
        pytest.raises(UserError, match=f"Output folder {tmp_path}: expected a place"),
        clear_failures(tmp_path / "refusal", tmp_path),
    ):
        raise RuntimeError(text)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), UserError("a", "b", "c", "d")])
def test_any_other_failure_stays_what_it_is(tmp_path, error):
    with pytest.raises(type(error)) as raised, clear_failures(tmp_path / "refusal", tmp_path):
        raise error
    assert raised.value is error
