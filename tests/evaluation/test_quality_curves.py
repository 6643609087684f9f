from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.errors import UserError
from laser_dist.evaluation.quality_curves import QualityCurve, read_quality_curves
from laser_dist.jnd.scale import QF, QP


def write_table(folder: Path, rows, name: str = "a.parquet", column: str = "qp") -> None:
    """Write rows of source, quantizer, PSNR and, optionally, bits."""
    folder.mkdir(exist_ok=True)
    source_ids, quantizers, psnrs, bits = zip(*((*row, 8)[:4] for row in rows), strict=True)
    columns = {
        "source_id": pa.array(source_ids),
        column: pa.array(quantizers, pa.int64()),
        "num_bits": pa.array(bits, pa.int64()),
        "psnr_rgb_db": pa.array(psnrs, pa.float64()),
        "psnr_y_min_db": pa.array(psnrs, pa.float64()),
        "bitrate_kbps": pa.array([None] * len(rows), pa.float64()),
    }
    pq.write_table(pa.table(columns), folder / name)


@given(st.dictionaries(st.integers(1, 51), st.floats(20, 60), min_size=1))
def test_curve_is_exact_at_the_measured_qps(by_qp):
    qps = sorted(by_qp)
    curve = QualityCurve(
        np.array(qps, float), np.array([by_qp[qp] for qp in qps]), np.ones(len(qps))
    )
    assert curve.psnr_at(np.array(qps)).tolist() == [by_qp[qp] for qp in qps]


def test_rows_of_a_source_may_be_in_any_order_and_file(tmp_path):
    write_table(tmp_path, [("b", 30, 35.0), ("a", 20, 41.0)], "one.parquet")
    write_table(tmp_path, [("b", 20, 40.0), ("c", 20, 1.0)], "two.parquet")
    curves = read_quality_curves(tmp_path, ["a", "b"], QP)
    assert sorted(curves) == ["a", "b"]
    assert curves["b"].quantizers.tolist() == [20, 30]
    assert curves["b"].psnr_at(np.array([25.0])) == pytest.approx([37.5])


def test_curve_leaves_out_the_lossless_reference(tmp_path):
    write_table(tmp_path, [("a", 0, 100.0, None), ("a", 10, 50.0)])
    curve = read_quality_curves(tmp_path, ["a"], QP)["a"]
    assert curve.quantizers.tolist() == [10]
    assert curve.finest(QP) == 10


def test_quality_factors_have_their_own_column_and_are_finest_at_100(tmp_path):
    rows = [("a", 100, 100.0, 9000), ("a", 90, 45.0, 4000), ("a", 80, 40.0, 1000)]
    write_table(tmp_path, rows, column="qf")
    curve = read_quality_curves(tmp_path, ["a"], QF)["a"]
    assert curve.finest(QF) == 100
    # Only the PSNR of the reference is dropped: its size is that of a JPEG.
    assert curve.psnr_at(np.array([95.0, 85.0])).tolist() == [45.0, 42.5]
    assert curve.bits_at(np.array([100.0, 90.0])) == pytest.approx([9000, 4000])
    with pytest.raises(UserError, match="columns source_id, qp, psnr_rgb_db, num_bits"):
        read_quality_curves(tmp_path, ["a"], QP)


def test_a_table_of_an_older_version_is_refused(tmp_path):
    write_table(tmp_path, [("a", 20, 41.0)])
    table = pq.read_table(tmp_path / "a.parquet").drop_columns("psnr_y_min_db")
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="Cannot read the columns") as caught:
        read_quality_curves(tmp_path, ["a"], QP)
    assert caught.value.hint == "Rebuild the dataset."


def test_a_source_with_only_the_reference_counts_as_missing(tmp_path):
    write_table(tmp_path, [("a", 100, 100.0)], column="qf")
    with pytest.raises(UserError, match="no measurement of 1 of 1 sources, for example a"):
        read_quality_curves(tmp_path, ["a"], QF)


def test_bits_are_interpolated_in_their_logarithm_and_unknown_if_one_is_unknown():
    curve = QualityCurve(np.array([20.0, 26.0]), np.array([40.0, 36.0]), np.array([800.0, 200.0]))
    # Factor 1/4 over 6 QP is factor 1/2 over 3 QP; QP 40 is clipped to 26.
    assert curve.bits_at(np.array([20, 23, 26, 40])) == pytest.approx([800, 400, 200, 200])
    unknown = QualityCurve(curve.quantizers, curve.psnr_rgb_db, np.array([800.0, np.nan]))
    assert np.isnan(unknown.bits_at(np.array([20, 23]))).all()


def test_a_missing_level_has_neither_psnr_nor_bits():
    curve = QualityCurve(np.array([20.0, 26.0]), np.array([40.0, 36.0]), np.array([800.0, 200.0]))
    assert np.isnan([curve.psnr_at(np.array(np.nan)), curve.bits_at(np.array(np.nan))]).all()


def test_a_missing_source_is_named(tmp_path):
    write_table(tmp_path, [("a", 20, 41.0)])
    with pytest.raises(UserError, match="no measurement of 1 of 2 sources, for example b"):
        read_quality_curves(tmp_path, ["a", "b"], QP)


def test_a_missing_table_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="has no Parquet files"):
        read_quality_curves(tmp_path / "quality", ["a"], QP)


def test_a_truncated_file_is_a_user_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="Cannot read the columns"):
        read_quality_curves(tmp_path, ["a"], QP)


@pytest.mark.parametrize("qps", [[2.0, 1.0], [1.0, 1.0], []])
def test_qps_of_a_curve_must_be_ascending(qps):
    with pytest.raises(ValueError, match="ascending|finite PSNR"):
        QualityCurve(np.array(qps), np.zeros(len(qps)), np.ones(len(qps)))
