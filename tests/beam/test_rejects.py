import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.rejects import Reject, check_share, lost_sources
from beam_pipelines.rejects_table import (
    WriteRejects,
    clear_failures,
    read_rejects,
    write_rejects,
)
from laser_dist.errors import UserError


def lost(index, what="source"):
    return Reject(what=what, where=f"videoSRC{index:03d}", stage="measure", reason="cut short")


@given(count=st.integers(0, 30), others=st.integers(0, 50), total=st.integers(1, 200))
def test_more_than_a_twentieth_of_the_sources_stops_the_work(count, others, total):
    rejects = [lost(i) for i in range(count)] + [lost(i, "clip") for i in range(others)]
    assert len(lost_sources(rejects)) == count
    if 20 * count <= total:
        check_share(rejects, total)
    else:
        with pytest.raises(UserError, match=f"at most 5% rejected, got {count} rejected"):
            check_share(rejects, total)


def test_the_message_names_the_first_three():
    with pytest.raises(UserError) as error:
        check_share([lost(i) for i in range(1, 6)], 10)
    assert str(error.value) == (
        "Work on 10 sources: expected at most 5% rejected, got 5 rejected: "
        "source videoSRC001 (measure): cut short; source videoSRC002 (measure): cut short; "
        "source videoSRC003 (measure): cut short; …. "
        "Mend or remove these inputs, then start again."
    )


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
    with pytest.raises(UserError, match=r"1 rejected: source videoSRC001.*All of them: .*refusal"):
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
