import errno
import gzip
import io
import random
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from beam_pipelines.inputs import archive_index, archives
from beam_pipelines.inputs.archive_index import members_of_archives
from beam_pipelines.inputs.archives import (
    archives_among,
    is_archive,
    members_of,
    needs_index,
    read_stored,
)
from beam_pipelines.inputs.tar_index import GzipCheck, index_tar
from beam_pipelines.runner import local_options
from laser_dist.errors import UserError
from laser_dist.storage import StoredFile, list_files, listing
from laser_dist.video.containers import VideoError

pytestmark = pytest.mark.slow

FORMS = ("tar.gz", "tgz", "zip")


def contents(count=5, size=3000, seed=0):
    """Return files that do not compress, like encoded clips."""
    rng = random.Random(seed)
    return {f"part/clip{index}.264": rng.randbytes(size) for index in range(count)}


def tar_of(files, *, links=(), level=6):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", compresslevel=level) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, kind, to in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, to
            archive.addfile(entry)
    return target.getvalue()


def zip_of(files):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def packed(files, form):
    return zip_of(files) if form == "zip" else tar_of(files)


def stored(path, content):
    """Write an archive, and return it as `list_files` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (file,) = [file for file in list_files(path.parent) if file.location == str(path)]
    return file


def list_members(archive, index_folder):
    if needs_index(archive, str(index_folder)):
        index_tar(archive, str(index_folder))
    return members_of(archive, str(index_folder))


def read_all(members):
    """Map names to contents, None if unreadable."""
    found = {}
    for member in members:
        try:
            found[member.member] = read_stored(member)
        except VideoError:
            found[member.member] = None
    return found


@pytest.mark.parametrize("form", FORMS)
def test_members_are_read_in_any_order(tmp_path, form):
    files = contents() | {"part/empty.264": b"", "part/deep/er/text.csv": b"a,b\r\n" * 9}
    archive = stored(tmp_path / "in" / f"a.{form}", packed(files, form))
    members, rejects = list_members(archive, tmp_path / "index")
    assert rejects == []
    assert {member.member: member.size for member in members} == {
        name: len(content) for name, content in files.items()
    }
    for member in (*members, *reversed(members)):
        assert read_stored(member) == files[member.member]
    one = members[0]
    assert (one.name, str(one)) == ("clip0.264", f"{archive.location}:part/clip0.264")
    assert one.mtime_ns == archive.mtime_ns


def test_a_file_outside_archives_is_read_directly(tmp_path):
    assert read_stored(stored(tmp_path / "a.264", b"abc")) == b"abc"
    with pytest.raises(UserError, match=r"absent\.264 was removed while"):
        read_stored(StoredFile(str(tmp_path / "absent.264")))


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_in_a_folder_with_brackets_is_read(tmp_path, form):
    files = {"source_images/[BMP]/a.bmp": b"picture"}
    archive = stored(tmp_path / "[in]" / f"a[1].{form}", packed(files, form))
    members, _ = list_members(archive, tmp_path / "[index]")
    assert read_all(members) == files


@pytest.mark.parametrize("form", FORMS)
def test_names_that_lead_out_of_the_archive_are_rejected(tmp_path, form):
    bad = ["../up.264", "/etc/clip.264", "part/../../up.264", ".."]
    files = {name: b"x" for name in bad} | {"part/good.264": b"good", "a/..b/fine.264": b"fine"}
    archive = stored(tmp_path / "in" / f"a.{form}", packed(files, form))
    members, rejects = list_members(archive, tmp_path / "index")
    assert read_all(members) == {"part/good.264": b"good"}  # `..b` is hidden
    assert {reject.where for reject in rejects} == {f"{archive.location}:{name}" for name in bad}
    assert {(reject.what, reject.stage) for reject in rejects} == {("archive", "find")}
    assert all("leads out" in reject.why for reject in rejects)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in written} <= {f".{form}", ".gz", ".tgz", ".json", ".gzidx"}


@pytest.mark.parametrize("form", FORMS)
def test_hidden_members_are_ignored(tmp_path, form):
    files = {"._clip.264": b"a", ".half/clip.264": b"b", "./part/clip.264": b"c"}
    archive = stored(tmp_path / f"a.{form}", packed(files, form))
    members, rejects = list_members(archive, tmp_path / "index")
    assert ([member.name for member in members], rejects) == (["clip.264"], [])


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_inside_an_archive_is_rejected(tmp_path, form):
    files = {"part_1.tar.gz": tar_of(contents(1)), "clip.264": b"clip"}
    archive = stored(tmp_path / f"a.{form}", packed(files, form))
    members, rejects = list_members(archive, tmp_path / "index")
    assert [member.name for member in members] == ["clip.264"]
    assert [reject.where for reject in rejects] == [f"{archive.location}:part_1.tar.gz"]


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_archive_has_no_members_and_no_rejects(tmp_path, form):
    archive = stored(tmp_path / f"a.{form}", packed({}, form))
    assert list_members(archive, tmp_path / "index") == ([], [])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content", [b"", b"\x1f", b"\x1f\x8b\x08\0\0", b"no archive" * 99])
def test_a_file_that_is_not_an_archive_is_rejected(tmp_path, form, content):
    archive = stored(tmp_path / f"a.{form}", content)
    members, (reject,) = list_members(archive, tmp_path / "index")
    assert members == []
    assert (reject.what, reject.where, reject.stage) == ("archive", archive.location, "find")


@pytest.mark.attack("Archives")
def test_no_member_of_a_truncated_or_damaged_tar_is_used(tmp_path):
    whole = tar_of(contents(5, 3000))
    for at in range(20, len(whole) - 8, 501):
        damaged = bytearray(whole)
        damaged[at : at + 2] = bytes(each ^ 0x55 for each in damaged[at : at + 2])
        for form, content in (("cut", whole[:at]), ("damaged", bytes(damaged))):
            archive = stored(tmp_path / f"{form}{at}.tar.gz", content)
            members, (reject,) = list_members(archive, tmp_path / "index")
            assert members == []
            assert reject.where == archive.location


def test_a_tar_truncated_between_two_members_is_rejected(tmp_path):
    files = contents(3)
    inner = gzip.decompress(tar_of(files))
    # A header and 3000 bytes, rounded up to 512, make 3584 bytes a member.
    short = inner[: 2 * 3584]
    compressor = gzip.compress(short)
    archive = stored(tmp_path / "cut.tar.gz", compressor[:-8])  # without the checksum
    members, (reject,) = list_members(archive, tmp_path / "index")
    assert "it is truncated" in reject.why
    assert members == []
    # With its checksum it is complete, though without the usual end.
    archive = stored(tmp_path / "short.tar.gz", compressor)
    members, rejects = list_members(archive, tmp_path / "index")
    assert (len(members), rejects) == (2, [])


def test_an_invalid_header_is_not_the_end(tmp_path):
    inner = bytearray(gzip.decompress(tar_of(contents(4))))
    inner[2 * 3584 + 20] ^= 1  # in the third header
    archive = stored(tmp_path / "a.tar.gz", gzip.compress(bytes(inner)))
    members, (reject,) = list_members(archive, tmp_path / "index")
    assert [member.name for member in members] == ["clip0.264", "clip1.264"]
    assert "invalid header at byte 7168" in reject.why


@pytest.mark.parametrize("level", [0, 6])
def test_a_tar_with_a_damaged_byte_is_rejected_and_gives_no_wrong_content(tmp_path, level):
    files = contents(4, 2000)
    whole = tar_of(files, level=level)
    rng = random.Random(level)
    outcomes = Counter()
    for number in range(120):
        damaged = bytearray(whole)
        damaged[rng.randrange(10, len(whole))] ^= 1 << rng.randrange(8)  # after the gzip header
        archive = stored(tmp_path / f"{number}.tar.gz", bytes(damaged))
        members, rejects = list_members(archive, tmp_path / "index")
        assert [reject.where for reject in rejects] == [archive.location]
        found = read_all(members)
        assert all(content in (None, files.get(name)) for name, content in found.items())
        outcomes[bool(found)] += 1
    assert outcomes[False]  # a mismatching checksum leaves nothing


def test_a_zip_with_damaged_bytes_gives_no_wrong_content_and_no_other_error(tmp_path):
    files = {name: content + bytes(500) for name, content in contents(4, 300).items()}
    whole = zip_of(files)
    rng = random.Random(0)
    unread = 0
    for number in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 3))):
            limit = rng.choice((0, len(whole) - 400))  # the list of members is at the end
            damaged[rng.randrange(limit, len(whole))] = rng.randrange(256)
        archive = stored(tmp_path / f"{number}.zip", bytes(damaged))
        members, _ = list_members(archive, tmp_path / "index")
        for name, content in read_all(members).items():
            assert content is None or name not in files or content == files[name]
            unread += content is None
    assert unread > 50


def test_a_reissued_part_supersedes_the_first(tmp_path):
    for name in ("960x540_part_3.tar.gz", "960x540_part_30.tar.gz", "fix/960x540_part_3_fix.tgz"):
        stored(tmp_path / name, tar_of({}))
    kept, (reject,) = archives_among(list_files(tmp_path))
    assert [file.name for file in kept] == ["960x540_part_30.tar.gz", "960x540_part_3_fix.tgz"]
    assert (reject.what, Path(reject.where).name) == ("archive", "960x540_part_3.tar.gz")
    assert reject.why == "superseded by 960x540_part_3_fix"


def test_a_part_in_another_folder_is_not_superseded_unless_names_state_the_resolution(tmp_path):
    for name in ("360p/part_3.zip", "540p/part_3.zip", "540p/part_3_fix.zip"):
        stored(tmp_path / name, zip_of({}))
    kept, rejects = archives_among(list_files(tmp_path))
    assert [file.location for file in kept] == [
        str(tmp_path / name) for name in ("360p/part_3.zip", "540p/part_3_fix.zip")
    ]
    assert [reject.where for reject in rejects] == [str(tmp_path / "540p/part_3.zip")]


def test_only_supported_archives_are_archives():
    names = {"a.tar.gz": 1, "a.tgz": 1, "a.zip": 1, "a.tar": 0, "a.gz": 0, "zip": 0, "a.264": 0}
    assert {name: int(is_archive(StoredFile(f"/x/{name}"))) for name in names} == names


def test_a_damaged_member_is_named_with_its_archive(tmp_path):
    files = contents(1)
    content = bytearray(zip_of(files))
    content[content.index(files["part/clip0.264"][:16]) + 100] ^= 1
    archive = stored(tmp_path / "a.zip", bytes(content))
    ((member,), _) = list_members(archive, tmp_path / "index")
    with pytest.raises(VideoError, match=r"a\.zip:part/clip0\.264 cannot be unpacked"):
        read_stored(member)


def test_a_replaced_archive_is_opened_again(tmp_path):
    for form in FORMS:
        for seed in (1, 2):
            files = contents(2, seed=seed)
            archive = stored(tmp_path / f"a.{form}", packed(files, form))
            assert read_all(list_members(archive, tmp_path / "index")[0]) == files


def test_archives_of_equal_name_and_size_in_two_folders_are_kept_apart(tmp_path):
    for seed, folder in enumerate(("360p", "540p")):
        files = contents(2, seed=seed)
        archive = stored(tmp_path / folder / "part_1.tar.gz", tar_of(files, level=0))
        assert read_all(list_members(archive, tmp_path / "index")[0]) == files


@pytest.mark.beam
def test_members_replace_archives_and_an_index_is_created_once(tmp_path, monkeypatch):
    loose, in_zip, in_tar = ({f"{name}.264": name.encode()} for name in ("loose", "zip", "tar"))
    stored(tmp_path / "in" / "loose.264", b"loose")
    stored(tmp_path / "in" / "a.zip", zip_of(in_zip))
    stored(tmp_path / "in" / "b_1x1.tar.gz", b"unused")
    stored(tmp_path / "in" / "b_1x1_fix.tar.gz", tar_of(in_tar))
    stored(tmp_path / "in" / "c.tar.gz", tar_of({"x.264": bytes(5000)})[:-20])
    files, index = list_files(tmp_path / "in"), str(tmp_path / "index")
    found, rejects = members_of_archives(files, index, local_options(1))
    by_name = {file.name: read_stored(file) for file in found if file.name != "x.264"}
    assert by_name == {
        name: content for part in (loose, in_zip, in_tar) for name, content in part.items()
    }
    assert [Path(reject.where).name for reject in rejects] == ["b_1x1.tar.gz", "c.tar.gz"]

    def never(*_):
        pytest.fail("an index was created again")

    monkeypatch.setattr(archive_index, "new_pipeline", never)
    assert members_of_archives(files, index, local_options(1)) == (found, rejects)


def test_unsupported_archives_are_rejected(tmp_path):
    names = ("a.tar", "b.TAR.GZ", "c.7z", "d.tar.xz", "e.ZIP", "f.zip", "g.264")
    kept, rejects = archives_among([StoredFile(f"/x/{name}") for name in names])
    assert [file.name for file in kept] == ["f.zip"]
    assert [Path(reject.where).name for reject in rejects] == list(names[:5])


class Failing(io.BytesIO):
    """File on a disk that fails after its first bytes."""

    def read(self, size=-1):
        if self.tell() > 1000:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(min(size, 1001))


@pytest.mark.parametrize("size", [500, 300_000])
def test_a_read_error_is_not_taken_for_truncation(tmp_path, monkeypatch, size):
    archive = stored(tmp_path / "a.tar.gz", tar_of(contents(5, size)))
    with monkeypatch.context() as patched:
        patched.setattr(listing, "open_binary", lambda at: Failing(Path(at).read_bytes()))
        with pytest.raises(UserError, match=r"a\.tar\.gz cannot be read: Input/output error"):
            index_tar(archive, str(tmp_path / "index"))
    assert needs_index(archive, str(tmp_path / "index"))
    assert read_all(list_members(archive, tmp_path / "index")[0]) == contents(5, size)


@pytest.mark.beam
@pytest.mark.parametrize("form", FORMS)
def test_an_archive_that_cannot_be_opened_is_an_error_until_it_can_be(tmp_path, form):
    archive = stored(tmp_path / f"a.{form}", packed(contents(1), form))
    index, options = str(tmp_path / "index"), local_options(1)
    away = Path(archive.location).rename(tmp_path / "away")
    with pytest.raises(UserError, match=rf"a\.{form} was removed while"):
        members_of_archives([archive], index, options)
    away.rename(archive.location)
    found, rejects = members_of_archives([archive], index, options)
    assert (read_all(found), rejects) == (contents(1), [])


def test_a_member_that_cannot_be_read_at_present_is_not_taken_for_a_damaged_one(
    tmp_path, monkeypatch
):
    for form in FORMS:
        archive = stored(tmp_path / f"a.{form}", packed(contents(), form))
        members, _ = list_members(archive, tmp_path / "index")
        with monkeypatch.context() as patched:
            patched.setattr(archives, "_OPEN", archives._OpenArchives(most=2))
            patched.setattr(listing, "open_binary", lambda at: Failing(Path(at).read_bytes()))
            with pytest.raises(UserError, match=r"cannot be read: Input/output error") as raised:
                read_stored(members[-1])
        assert not isinstance(raised.value, VideoError)
        assert read_all(members) == contents()


@pytest.mark.parametrize("pieces", [(10**6,), (1,), (2,), (7,)])
@pytest.mark.parametrize("tail", [b"", b"\0" * 600, b"anything else", b"\0\x1e"])
def test_concatenated_streams_and_trailing_bytes_are_valid(pieces, tail):
    content = gzip.compress(b"a" * 1000) + gzip.compress(b"b" * 10) + tail
    check = GzipCheck(io.BytesIO(content))
    while check.read(*pieces):
        pass
    check.finish()
    assert check.fault == ""


def test_the_checksum_of_a_second_stream_is_verified():
    second = bytearray(gzip.compress(b"b" * 10))
    second[-6] ^= 1
    check = GzipCheck(io.BytesIO(gzip.compress(b"a" * 1000) + second))
    check.finish()
    assert check.fault == "incorrect data check"
