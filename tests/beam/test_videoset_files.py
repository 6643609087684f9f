from beam_pipelines.inputs.videoset_files import take_inventory
from beam_pipelines.storage import list_files
from laser_dist.jnd.videoset_labels import COLUMNS, label_file_name
from laser_dist.jnd.videoset_layout import ClipName


def write_dataset(folder, levels_by_source):
    """Labels with the given JND1 to JND3, and an empty reference clip of each source."""
    for level_index in range(3):
        rows = [
            f'0,{levels[level_index]},32,1,"[30, 32, 34]",3,{source_index},2'
            for source_index, levels in levels_by_source.items()
        ]
        text = "\n".join([",".join(COLUMNS), *rows])
        (folder / label_file_name("64x48", level_index)).write_text(text)
    for source_index in levels_by_source:
        name = ClipName(source_index=source_index, width=64, height=48, rate=30, qp=0)
        path = folder / name.path
        path.parent.mkdir()
        path.touch()


def test_a_source_with_impossible_labels_is_a_reject_that_says_why(tmp_path):
    write_dataset(tmp_path, {1: (20, 25, 30), 2: (30, 24, 35)})
    inventory = take_inventory(list_files(tmp_path), str(tmp_path), "64x48")
    assert [source.source_id for source in inventory.sources] == ["videoSRC001"]
    assert [str(reject) for reject in inventory.rejects] == [
        "source videoSRC002 (find): impossible labels in 64x48_2nd.csv: JND2 24 below JND1 30"
    ]
    assert inventory.num_sources == 2
