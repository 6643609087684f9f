"""Archives that state what is not so, or ask for more memory than there is."""

import gzip
import io
import os
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from test_archives import contents, list_members, read_all, stored, tar_of, zip_of

from beam_pipelines.inputs import tar_index
from beam_pipelines.inputs.archives import MAX_MEMBERS, MAX_RATIO, index_locations, read_stored
from laser_dist.errors import UserError
from laser_dist.storage import list_files
from laser_dist.video.containers import VideoError

pytestmark = [pytest.mark.slow, pytest.mark.attack("Archives")]

BIG = 300 << 20
MEMORY = 150 << 20
"""What a process may take, in addition to its libraries."""


def whys(rejects):
    """Map the last part of the place of each reject to its reason."""
    return {reject.where.rpartition("/")[2]: reject.why for reject in rejects}


def tar_entry(name, *, size=0, kind=tarfile.REGTYPE, link="", pax=None):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, size
    entry.pax_headers = pax or {}
    return entry.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def padded(content):
    return content + bytes(-len(content) % 512)


END = bytes(1024)
CLIP = b"clip" * 100
GOOD = tar_entry("good.264", size=len(CLIP)) + padded(CLIP)


def tar_members(tmp_path, *pieces):
    archive = stored(tmp_path / "in" / "a.tar.gz", gzip.compress(b"".join(pieces)))
    return list_members(archive, tmp_path / "index")


# --- a name that occurs twice, and links ---


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_members_of_one_name_are_each_read_with_their_own_content(tmp_path, form):
    parts = [b"first" * 50, b"second, and longer" * 50]
    if form == "zip":
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for part in parts:
                archive.writestr("clip.264", part)
        content = target.getvalue()
    else:
        content = gzip.compress(
            b"".join(tar_entry("clip.264", size=len(part)) + padded(part) for part in parts) + END
        )
    members, rejects = list_members(stored(tmp_path / f"a.{form}", content), tmp_path / "index")
    assert ([read_stored(member) for member in members], rejects) == (parts, [])
    assert [member.size for member in members] == [len(part) for part in parts]


def test_hard_links_are_followed_and_other_links_are_rejected(tmp_path):
    links = [
        ("part/hard.264", tarfile.LNKTYPE, "part/clip0.264"),
        ("part/again.264", tarfile.LNKTYPE, "part/hard.264"),
        ("part/outside.264", tarfile.LNKTYPE, "/etc/passwd"),
        ("part/later.264", tarfile.LNKTYPE, "part/later.264"),
        ("part/soft.264", tarfile.SYMTYPE, "/etc/passwd"),
        ("part/pipe.264", tarfile.FIFOTYPE, ""),
        ("part/folder.264", tarfile.DIRTYPE, ""),
    ]
    files = contents(1)
    archive = stored(tmp_path / "a.tar.gz", tar_of(files, links=links))
    members, rejects = list_members(archive, tmp_path / "index")
    names = ("part/clip0.264", "part/hard.264", "part/again.264")
    assert read_all(members) == dict.fromkeys(names, files["part/clip0.264"])
    absent = "a link to a file that does not come before it in the archive"
    assert whys(rejects) == {
        "outside.264": absent,
        "later.264": absent,
        "soft.264": "neither a file nor a hard link",
        "pipe.264": "neither a file nor a hard link",
    }


def test_a_link_in_a_zip_is_rejected(tmp_path):
    link = zipfile.ZipInfo("link.264")
    link.external_attr = 0o120777 << 16
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("clip.264", b"clip")
    members, rejects = list_members(stored(tmp_path / "a.zip", target.getvalue()), tmp_path)
    assert read_all(members) == {"clip.264": b"clip"}
    assert whys(rejects) == {"a.zip:link.264": "a link, which is not followed"}


# --- archives that are replaced under a build ---


def overwrite(path, content):
    path.write_bytes(content)


def swap(path, content):
    other = path.with_name(".other")
    other.write_bytes(content)
    other.rename(path)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("change", [overwrite, swap])
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_replaced_archive_is_refused(tmp_path, form, change, is_open):
    packed = zip_of if form == "zip" else tar_of
    path = tmp_path / "in" / f"a.{form}"
    archive = stored(path, packed(contents(seed=1)))
    os.utime(path, ns=(10**18, 10**18))
    (archive,) = list_files(path.parent)
    members, _ = list_members(archive, tmp_path / "index")
    if is_open:
        read_stored(members[0])
    change(path, packed(contents(seed=2)))
    for member in members:
        with pytest.raises(UserError, match=r"in/a\..* changed while the dataset was built\."):
            read_stored(member)
    (again,) = list_files(path.parent)
    members, _ = list_members(again, tmp_path / "index")
    assert read_all(members) == contents(seed=2)


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_an_archive_replaced_by_garbage_is_not_taken_for_a_damaged_one(tmp_path, form):
    packed = zip_of if form == "zip" else tar_of
    archive = stored(tmp_path / f"a.{form}", packed(contents()))
    members, _ = list_members(archive, tmp_path / "index")
    Path(archive.location).write_bytes(b"garbage" * 1000)
    with pytest.raises(UserError, match="changed while") as raised:
        read_stored(members[0])
    assert not isinstance(raised.value, VideoError)


def test_an_archive_that_is_replaced_before_it_is_indexed_is_refused(tmp_path):
    archive = stored(tmp_path / "in" / "a.tar.gz", tar_of(contents(seed=1)))
    Path(archive.location).write_bytes(tar_of(contents(2, seed=2)))
    with pytest.raises(UserError, match="changed while"):
        tar_index.index_tar(archive, str(tmp_path / "index"))
    assert not (tmp_path / "index").exists()


# --- sizes that are not so ---


def test_a_tar_member_that_claims_a_terabyte_is_rejected(tmp_path):
    members, rejects = tar_members(tmp_path, GOOD, tar_entry("huge.264", size=1 << 40))
    assert read_all(members) == {"good.264": CLIP}
    assert whys(rejects) == {
        "a.tar.gz": "damaged, truncated or too large (unexpected end of data); 1 files found",
        "a.tar.gz:huge.264": "it ends after the end of the archive",
    }


@pytest.mark.parametrize("size", [1 << 40, 5000])
def test_a_size_that_reaches_into_other_members_is_rejected(tmp_path, size):
    """The size of a PAX header, which is not the size of the data."""
    pax = {"GNU.sparse.realsize": str(size)}
    members, rejects = tar_members(
        tmp_path, tar_entry("a.264", size=len(CLIP), pax=pax), padded(CLIP), *[GOOD] * 20, END
    )
    assert {member.name for member in members} == {"good.264"}
    assert whys(rejects) == {"a.tar.gz:a.264": "it ends after the start of the next member"}


def test_sparse_members_are_rejected(tmp_path):
    old = bytearray(tar_entry("old.264", size=512, kind=tarfile.GNUTYPE_SPARSE))
    old[386:410] = b"00000000000\0" + b"00000001000\0"
    old[483:495] = b"10000000000\0"  # 1 GiB
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
    new = tar_entry("new.264", size=1024, pax=pax) + padded(b"1\n0\n512\n") + bytes(512)
    members, rejects = tar_members(tmp_path, GOOD, bytes(old), bytes(512), new, END)
    assert read_all(members) == {"good.264": CLIP}
    assert whys(rejects) == dict.fromkeys(("a.tar.gz:old.264", "a.tar.gz:new.264"), "a sparse file")


def test_a_size_below_zero_does_not_read_a_header_again_and_again(tmp_path):
    header = bytearray(tar_entry("a.264"))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    _, rejects = tar_members(tmp_path, GOOD, bytes(header), END)
    assert "invalid header" in whys(rejects)["a.tar.gz"]


def rewritten(content, offset, layout, value):
    """Return a ZIP file with a changed field of its only member's record in the list."""
    at = content.index(b"PK\1\2") + offset
    return content[:at] + struct.pack(layout, value) + content[at + struct.calcsize(layout) :]


def test_sizes_in_the_list_of_a_zip_are_checked(tmp_path):
    whole = zip_of({"a.264": random.Random(0).randbytes(3000)})
    cases = {
        "packed": (20, 1 << 31, "it ends after the end of the archive"),
        "unpacked": (24, 1 << 31, f"it unpacks to more than {MAX_RATIO} times its size"),
        "offset": (42, 1 << 31, "it ends after the end of the archive"),
        "method": (10, zipfile.ZIP_LZMA, "compressed by another method than deflate"),
    }
    for name, (offset, value, why) in cases.items():
        content = rewritten(whole, offset, "<H" if name == "method" else "<I", value)
        archive = stored(tmp_path / f"{name}.zip", content)
        members, rejects = list_members(archive, tmp_path / "index")
        assert (members, whys(rejects)) == ([], {f"{name}.zip:a.264": why})


@pytest.mark.parametrize("stated", [2999, 3001])
def test_a_member_of_another_size_than_stated_is_damaged(tmp_path, stated):
    whole = zip_of({"a.264": random.Random(0).randbytes(3000)})
    archive = stored(tmp_path / "a.zip", rewritten(whole, 24, "<I", stated))
    ((member,), _) = list_members(archive, tmp_path / "index")
    with pytest.raises(VideoError, match="truncated: 3000 of 3001 bytes|Bad CRC-32"):
        read_stored(member)


# --- more than memory holds ---


SCRIPT = """
import resource, sys
from pathlib import Path
import indexed_gzip
from beam_pipelines.inputs.archives import members_of, needs_index, read_stored
from beam_pipelines.inputs.tar_index import index_tar
from laser_dist.errors import UserError
from laser_dist.storage import list_files

(archive,) = list_files(sys.argv[1])
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
if needs_index(archive, sys.argv[3]):
    index_tar(archive, sys.argv[3])
members, rejects = members_of(archive, sys.argv[3])
print(len(members))
for member in members[:3]:
    try:
        print(len(read_stored(member)))
    except UserError as error:
        print(error.message)
for reject in rejects[:3]:
    print(reject.why)
"""


def with_little_memory(archive, content, tmp_path):
    """Return what is printed about an archive by a process that cannot take its content."""
    stored(archive, content)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, archive.parent, str(MEMORY), tmp_path / "index"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_with_a_bomb_takes_no_memory(tmp_path, method):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method, compresslevel=1) as archive:
        archive.writestr("good.264", CLIP, zipfile.ZIP_DEFLATED)
        archive.writestr("bomb.264", bytes(BIG))
    content = target.getvalue()
    assert len(content) < BIG / 200
    why = {
        zipfile.ZIP_DEFLATED: f"it unpacks to more than {MAX_RATIO} times its size",
        zipfile.ZIP_BZIP2: "compressed by another method than deflate",
    }
    lines = with_little_memory(tmp_path / "in" / "a.zip", content, tmp_path)
    assert lines == ["1", "400", why[method]]


def test_a_bomb_that_states_another_size_takes_no_memory(tmp_path):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("bomb.264", bytes(BIG))
    content = rewritten(target.getvalue(), 24, "<I", 1000)
    lines = with_little_memory(tmp_path / "in" / "a.zip", content, tmp_path)
    assert lines[0] == "1"
    assert "Bad CRC-32" in lines[1]


def test_a_zip_with_too_many_members_takes_no_memory(tmp_path):
    record = b"PK\1\2" + bytes(24) + struct.pack("<H", 5) + bytes(16) + b"a.264"
    assert len(record) == 46 + 5
    for count, why in (
        (MAX_MEMBERS + 1, f"more than {MAX_MEMBERS:,} members"),
        (5_000_000, "headers of more than"),
    ):
        listed = record * count
        end = b"PK\5\6" + bytes(8) + struct.pack("<II", len(listed), 0) + bytes(2)
        path = tmp_path / str(count) / "a.zip"
        number, reason = with_little_memory(path, listed + end, tmp_path)
        assert number == "0"
        assert reason.startswith(f"damaged, truncated or too large ({why}")


def test_a_tar_with_too_many_members_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_index, "MAX_MEMBERS", 5)
    assert len(tar_members(tmp_path, *[GOOD] * 5, END)[0]) == 5
    members, (reject,) = tar_members(tmp_path, *[GOOD] * 6, END)
    assert members == []
    assert "more than" in reject.why


def zeros_between(first, last):
    """Return first, `BIG` zeros and last, compressed."""
    stream = zlib.compressobj(1, zlib.DEFLATED, 31)
    block = bytes(BIG // 10)
    parts = [stream.compress(first), *(stream.compress(block) for _ in range(10))]
    return b"".join((*parts, stream.compress(last), stream.flush()))


def noise():
    """Return bytes that do not compress, so that the ratio of the archive is not exceeded."""
    content = random.Random(0).randbytes(BIG // MAX_RATIO)
    return tar_entry("noise.264", size=len(content)) + padded(content)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_tar_with_a_header_larger_than_memory_is_read_up_to_it(tmp_path, kind):
    content = zeros_between(noise() + GOOD + tar_entry("x", size=BIG, kind=kind), GOOD + END)
    number, *lines = with_little_memory(tmp_path / "in" / "a.tar.gz", content, tmp_path)
    assert (number, lines[1]) == ("2", "400")
    assert "headers of more than 65,536 bytes); 2 files found" in lines[2]


def test_a_chain_of_headers_is_read_up_to_its_limit(tmp_path):
    chain = (tar_entry("x", size=5, kind=tarfile.GNUTYPE_LONGNAME) + padded(b"name\0")) * 5000
    members, (reject,) = tar_members(tmp_path, GOOD, chain, GOOD, END)
    assert [member.name for member in members] == ["good.264"]
    assert "headers of more than" in reject.why


def test_a_tar_that_unpacks_to_too_much_is_not_read(tmp_path):
    content = zeros_between(GOOD + tar_entry("bomb.264", size=BIG), END)
    assert len(content) < BIG / 200
    number, why = with_little_memory(tmp_path / "in" / "a.tar.gz", content, tmp_path)
    assert number == "0"
    assert f"it unpacks to more than {MAX_RATIO} times its size" in why


# --- anything else ---


@pytest.mark.parametrize("seed", range(4))
def test_mutated_headers_give_members_and_rejects_and_nothing_else(tmp_path, seed):
    rng = random.Random(seed)
    links = [("part/hard.264", tarfile.LNKTYPE, "part/clip0.264")]
    pax = tar_entry("pax.264", size=len(CLIP), pax={"path": "ä.264", "size": "400"}) + padded(CLIP)
    whole = gzip.decompress(tar_of(contents(3, 700), links=links))[:-9000] + pax + GOOD + END
    for number in range(100):
        damaged = bytearray(whole)
        at = 512 * rng.randrange(len(whole) // 512)
        for _ in range(rng.choice((1, 1, 4))):
            fields = (rng.randrange(512), rng.randrange(124, 136), 156, rng.randrange(157, 257))
            damaged[at + rng.choice(fields)] = rng.choice((0, 45, 48, 55, 128, 255, *b"LKxgSV1"))
        damaged[at + 148 : at + 156] = b" " * 8
        damaged[at + 148 : at + 156] = b"%06o\0 " % sum(damaged[at : at + 512])
        archive = stored(tmp_path / f"{number}.tar.gz", gzip.compress(bytes(damaged), 1))
        members, _ = list_members(archive, tmp_path / "index")
        for member in members:
            content = read_stored(member)
            assert content == damaged[member.offset :][: member.size]


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_an_archive_of_any_name_has_an_index(tmp_path, form):
    packed = zip_of if form == "zip" else tar_of
    archive = stored(tmp_path / "in" / f"{'ü' * 120}.{form}", packed(contents(1)))
    members, _ = list_members(archive, tmp_path / "index")
    assert read_all(members) == contents(1)
    assert all(len(Path(at).name.encode()) < 150 for at in index_locations(archive, ""))


def test_members_without_a_name_are_rejected(tmp_path):
    """Without one, a member could be taken for the archive itself."""
    files = {"a.264": b"a", "b.264": b"b"}
    unnamed = gzip.decompress(tar_of({"": b"a", "b.264": b"b"}))
    for form, content in (
        ("zip", zip_of(files).replace(b"a.264", b"\0.264")),
        ("tar.gz", gzip.compress(unnamed)),
    ):
        archive = stored(tmp_path / f"a.{form}", content)
        members, (reject,) = list_members(archive, tmp_path / "index")
        assert [member.name for member in members] == ["b.264"]
        assert reject.why == "no name"


def test_long_names_are_rejected(tmp_path):
    files = {f"{'d' * 1500}/a.264": b"a", "b.264": b"b"}
    for form, packed in (("zip", zip_of), ("tar.gz", tar_of)):
        archive = stored(tmp_path / f"a.{form}", packed(files))
        members, (reject,) = list_members(archive, tmp_path / "index")
        assert [member.name for member in members] == ["b.264"]
        assert reject.why == "a name of more than 1000 characters"
        assert len(reject.where) < 1500
