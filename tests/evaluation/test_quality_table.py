from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.errors import UserError
from laser_dist.evaluation.quality_table import QualityCurve, read_quality_curves


def write_table(folder: Path, rows: list[tuple[str, int, float]], name: str = "a.parquet") -> None:
    folder.mkdir(exist_ok=True)
    source_ids, qps, psnrs = zip(*rows, strict=True)
    columns = {
        "source_id": pa.array(source_ids),
        "qp": pa.array(qps, pa.int32()),
        "psnr_rgb_db": pa.array(psnrs, pa.float64()),
        "bitrate_kbps": pa.array([1.0] * len(rows)),
    }
    pq.write_table(pa.table(columns), folder / name)


@given(st.dictionaries(st.integers(1, 51), st.floats(20, 60), min_size=1))
def test_curve_is_exact_at_its_own_qps(by_qp):
    qps = sorted(by_qp)
    curve = QualityCurve(np.array(qps, float), np.array([by_qp[qp] for qp in qps]))
    assert curve.psnr_at(np.array(qps)).tolist() == [by_qp[qp] for qp in qps]


def test_rows_of_one_source_may_stand_in_any_order_and_file(tmp_path):
    write_table(tmp_path, [("b", 30, 35.0), ("a", 20, 41.0)], "one.parquet")
    write_table(tmp_path, [("b", 20, 40.0), ("c", 20, 1.0)], "two.parquet")
    curves = read_quality_curves(tmp_path, ["a", "b"])
    assert sorted(curves) == ["a", "b"]
    assert curves["b"].qps.tolist() == [20, 30]
    assert curves["b"].psnr_at(np.array([25.0])) == pytest.approx([37.5])


def test_the_lossless_reference_is_no_point_of_the_curve(tmp_path):
    write_table(tmp_path, [("a", 0, 100.0), ("a", 10, 50.0)])
    assert read_quality_curves(tmp_path, ["a"])["a"].qps.tolist() == [10]


def test_a_missing_source_is_named(tmp_path):
    write_table(tmp_path, [("a", 20, 41.0)])
    with pytest.raises(UserError, match="none for 1 of 2, first b"):
        read_quality_curves(tmp_path, ["a", "b"])


def test_a_missing_table_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="expected Parquet files, got none"):
        read_quality_curves(tmp_path / "quality", ["a"])


def test_a_torn_file_is_the_users_to_mend(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="quality table"):
        read_quality_curves(tmp_path, ["a"])


@pytest.mark.parametrize("qps", [[2.0, 1.0], [1.0, 1.0], []])
def test_a_curve_wants_ascending_qps(qps):
    with pytest.raises(ValueError, match="expected"):
        QualityCurve(np.array(qps), np.zeros(len(qps)))
