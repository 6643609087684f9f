"""The files of a run, in a folder or in a bucket that two machines have their own copies of."""

import pytest

pytestmark = pytest.mark.slow


def put(store, name, text):
    path = store.local / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    store.push(path)


def test_one_machine_fetches_what_another_pushed(machines):
    one, two = machines
    assert not two.fetch(two.local / "models" / "a.keras")
    put(one, "models/a.keras", "first")
    assert two.fetch(two.local / "models" / "a.keras")
    assert (two.local / "models" / "a.keras").read_text() == "first"
    put(one, "models/a.keras", "other")  # of the same size
    assert two.fetch(two.local / "models" / "a.keras")
    assert (two.local / "models" / "a.keras").read_text() == "other"


def test_a_fetched_folder_can_be_made_equal_to_the_bucket(machines):
    one, two = machines
    put(one, "models/a.keras", "a")
    put(one, "models/b.keras", "b")
    two.fetch_all(two.local / "models")
    one.remove(one.local / "models" / "a.keras")
    put(one, "models/c.keras", "c")
    two.fetch_all(two.local / "models", exactly=True)
    names = ["b.keras", "c.keras"]
    assert sorted(path.name for path in (two.local / "models").iterdir()) == names
    assert two.names(two.local / "models") == names
    assert two.names(two.local / "none") == []


def test_unfinished_files_of_other_workers_are_kept(machines):
    one, two = machines
    put(one, "models/a.keras", "a")
    mine = two.local / "models" / ".b.keras.1.unfinished"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("half")
    two.fetch_all(two.local / "models")
    assert mine.read_text() == "half"
    assert (two.local / "models" / "a.keras").read_text() == "a"


def test_a_removed_folder_takes_its_content_with_it(machines):
    one, two = machines
    put(one, "features/x/part", "1")
    put(one, "features/y/part", "2")
    two.remove(two.local / "features" / "x")
    assert one.names(one.local / "features") == ["y"]
    two.remove(two.local / "features" / "x")  # gone already
