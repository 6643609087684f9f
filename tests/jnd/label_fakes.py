"""Label files of one source in VideoSet's layout."""

import statistics
from pathlib import Path

import pytest

from laser_dist.jnd.label_files import LabelFileError
from laser_dist.jnd.videoset_labels import (
    LevelLabel,
    SourceLabels,
    label_file_name,
    read_videoset_labels,
)

HEADER = "anchor,jnd,mean,normality,samples,samples_no,sequence_index,standard_deviation"
# Samples 30, 32, 34: mean 32, standard deviation sqrt((4 + 0 + 4) / 2) = 2.
FIRST = '0,30,32,1,"[30, 32, 34]",3,1,2'
SECOND = '30,33,36,0,"[34, 36, 38]",3,1,2'
THIRD = '33,37,40,1,"[38, 40, 42]",3,1,2'


def make_label(samples, jnd, anchor, normality=1):
    return LevelLabel(
        jnd=jnd,
        mean=statistics.fmean(samples),
        anchor=anchor,
        samples=tuple(samples),
        normality=normality,
        standard_deviation=statistics.stdev(samples),
    )


PLAIN = SourceLabels(
    "videoSRC001",
    (
        make_label([30, 32, 34], 30.0, 0.0),
        make_label([34, 36, 38], 33.0, 30.0, normality=0),
        make_label([38, 40, 42], 37.0, 33.0),
    ),
)


def write(folder: Path, *texts: str, resolution="640x360") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for level_index, text in enumerate(texts):
        data = text.encode("utf-8")
        (folder / label_file_name(resolution, level_index)).write_bytes(data)
    return folder


def table(*rows, header=HEADER, end="\n"):
    return end.join([header, *rows]) + end


def read_with_first(folder, text):
    """Read labels whose first file is the given text and whose others are plain."""
    return read_videoset_labels(write(folder, text, table(SECOND), table(THIRD)))


def error_of_first(folder, text) -> LabelFileError:
    with pytest.raises(LabelFileError) as caught:
        read_with_first(folder, text)
    return caught.value
