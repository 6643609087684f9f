import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_dist.jnd.mcl_jci_layout import (
    TEXT_KINDS,
    ImageName,
    TextName,
    mcl_jci_source_id,
    mcl_jci_source_index,
    parse_image_name,
    parse_text_name,
)

INDICES = st.integers(1, 99)
IMAGES = st.builds(ImageName, source_index=INDICES, quality_factor=st.none() | st.integers(1, 100))
TEXTS = st.builds(TextName, source_index=INDICES, kind=st.sampled_from(TEXT_KINDS))


@given(IMAGES)
def test_an_image_name_parses_to_its_parts(name):
    assert parse_image_name(name.path.name) == name
    assert parse_text_name(name.path.name) is None
    assert mcl_jci_source_index(name.source_id) == name.source_index


@given(TEXTS)
def test_a_text_name_parses_to_its_parts(name):
    assert parse_text_name(name.path.name) == name
    assert parse_image_name(name.path.name) is None


def test_names_and_folders_of_mcl_jci():
    # As they stand in the dataset's archive.
    first, fiftieth = ImageName(source_index=1, quality_factor=50), mcl_jci_source_id(50)
    assert str(first.path) == "distorted_image/ImageJND_SRC01/ImageJND_SRC01_050.jpg"
    source = ImageName(source_index=1, quality_factor=None)
    assert str(source.path) == "source_images/[BMP]/ImageJND_SRC01.bmp"
    assert fiftieth == "ImageJND_SRC50"
    viewers, stairs = (TextName(source_index=1, kind=kind) for kind in TEXT_KINDS)
    assert str(viewers.path) == "JND_samples/JND_image_01.txt"
    assert str(stairs.path) == "SQF_data/Image_1_l_h.txt"
    assert viewers.source_id == source.source_id == "ImageJND_SRC01"


def test_numbers_of_texts_are_padded_or_not():
    assert parse_text_name("JND_image_1.txt") == parse_text_name("JND_image_01.txt")
    assert parse_text_name("Image_01_l_h.txt") == parse_text_name("Image_1_l_h.txt")


@pytest.mark.parametrize(
    "name",
    [
        "ImageJND_SRC00.bmp",
        "ImageJND_SRC1.bmp",
        "ImageJND_SRC01.bmp.part",
        "ImageJND_SRC01_050.png",
        "ImageJND_SRC01_50.jpg",
        "ImageJND_SRC01_000.jpg",
        "ImageJND_SRC01_101.jpg",
        "._ImageJND_SRC01.bmp",
        "JND_image_00.txt",
        "JND_image_001.txt",
        "Image_0_l_h.txt",
        "Image_1_l_h.txt~",
    ],
)
def test_other_file_names_are_not_parsed(name):
    assert parse_image_name(name) is None
    assert parse_text_name(name) is None


@pytest.mark.parametrize("identifier", ["ImageJND_SRC00", "ImageJND_SRC1", "videoSRC001"])
def test_an_invalid_mcl_jci_source_id_is_refused(identifier):
    with pytest.raises(ValueError, match="ImageJND_SRC01..ImageJND_SRC99, got"):
        mcl_jci_source_index(identifier)
