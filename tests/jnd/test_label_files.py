import pickle

import pytest
from label_fakes import FIRST, PLAIN, SECOND, THIRD, error_of_first, table, write

from laser_dist.errors import UserError
from laser_dist.jnd.label_files import LabelFile, LabelFileError
from laser_dist.jnd.videoset_labels import (
    label_file_name,
    parse_videoset_labels,
    read_videoset_labels,
)


def test_a_file_that_is_not_text_is_an_error(tmp_path):
    write(tmp_path, table(FIRST), table(SECOND), table(THIRD))
    (tmp_path / "640x360_1st.csv").write_bytes("ä".encode("latin-1"))
    with pytest.raises(LabelFileError, match="not UTF-8 text \\('utf-8' codec can't"):
        read_videoset_labels(tmp_path)


def test_the_error_is_one_sentence_and_survives_pickling(tmp_path):
    error = error_of_first(tmp_path, table(FIRST.replace(",30,", ",?,")))
    assert str(error) == (
        "640x360_1st.csv, line 2, column 'jnd': '?' is not a decimal number.\n"
        "hint: Fix the file, or download it again."
    )
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is LabelFileError
        assert vars(copy) == vars(error)
        assert str(copy) == str(error)


def test_files_are_found_recursively_and_other_resolutions_ignored(tmp_path):
    write(tmp_path / "labels" / "360p [small]", table(FIRST), table(SECOND), table(THIRD))
    write(tmp_path, "nothing", "of", "ours", resolution="1640x360")
    assert read_videoset_labels(tmp_path).sources == (PLAIN,)


def test_a_second_copy_is_ignored_if_the_same_and_refused_if_not(tmp_path):
    write(tmp_path, table(FIRST), table(SECOND), table(THIRD))
    copy = tmp_path / "copy"
    write(copy, table(FIRST))
    result = read_videoset_labels(tmp_path)
    assert result.sources == (PLAIN,)
    assert result.repairs == (f"640x360_1st.csv: second copy {copy}/640x360_1st.csv; ignored",)
    write(copy, table(FIRST.replace(",30,", ",31,")))
    with pytest.raises(LabelFileError, match=r"640x360_1st.csv: .* and .* differ"):
        read_videoset_labels(tmp_path)


def test_labels_are_parsed_from_any_storage():
    # As listed in a bucket: with other files and a second copy.
    folders = ["gs://bucket/a", "gs://bucket/b"]
    texts = table(FIRST), table(SECOND), table(THIRD)
    files = [
        LabelFile(name, f"{folder}/{name}", text.encode())
        for folder in folders
        for name, text in [
            ("1280x720_1st.csv", "of another resolution"),
            *((label_file_name("640x360", i), text) for i, text in enumerate(texts)),
        ]
    ]
    result = parse_videoset_labels(files, "640x360", location="gs://bucket")
    assert result.sources == (PLAIN,)
    assert result.repairs[0] == (
        "640x360_1st.csv: second copy gs://bucket/b/640x360_1st.csv; ignored"
    )
    assert result == parse_videoset_labels(files[::-1], "640x360", location="gs://bucket")
    with pytest.raises(UserError, match=r"gs://bucket has no label file 640x360_3rd.csv\."):
        parse_videoset_labels(files[:3], "640x360", location="gs://bucket")


def test_missing_files_are_a_user_error(tmp_path):
    write(tmp_path, table(FIRST))
    with pytest.raises(UserError) as caught:
        read_videoset_labels(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} has no label file 640x360_2nd.csv, 640x360_3rd.csv.\n"
        "hint: Put VideoSet's label files there, or name the folder that contains them."
    )


def test_a_label_file_above_the_limit_is_not_read(tmp_path):
    write(tmp_path, table(FIRST))
    for name in ("640x360_2nd.csv", "640x360_3rd.csv"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(16_000_001)  # sparse
    with pytest.raises(UserError, match=r"2nd\.csv has 16,000,001 bytes; the limit is 16,000,000"):
        read_videoset_labels(tmp_path)


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        read_videoset_labels(tmp_path / "nowhere")


@pytest.mark.parametrize("resolution", ["360p", "*", "640x360/..", ""])
def test_an_invalid_resolution_is_a_user_error(tmp_path, resolution):
    with pytest.raises(UserError, match="is not a resolution"):
        read_videoset_labels(tmp_path, resolution)
