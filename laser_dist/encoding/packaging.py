"""Write renditions as fMP4 segments, with the manifests of HLS and DASH.

FFmpeg's `dash` muxer cuts the segments and writes the DASH manifest. The HLS playlists are written
here, because those of the muxer lack the frame rate and the peak bit rate, and hold the time of
writing. Both manifests name the same segments.
"""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # of a file that FFmpeg has written here

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from laser_dist.encoding.sound import Sound, add_sound, sound_packets, sounds_of
from laser_dist.errors import UserError
from laser_dist.video.containers import frame_rate, open_all_streams, open_video
from laser_dist.wording import count_text

DASH_MANIFEST, HLS_PLAYLIST = "manifest.mpd", "master.m3u8"
_MPD = "{urn:mpeg:dash:schema:mpd:2011}"
_GROUP = "sound"  # the renditions of sound, of which a player chooses one
_HLS_VERSION = 7  # fMP4 segments


@dataclass(frozen=True, kw_only=True)
class Track:
    """Segments of a stream.

    Attributes:
      name: folder of the segments.
      codec: codec and its profile, as RFC 6381 writes them, such as "avc1.64001f".
      durations_s: length of each segment in seconds.
      sizes: bytes of each segment.
      width: columns of a frame in pixels; 0 for sound.
      height: rows of a frame in pixels; 0 for sound.
      fps: nominal frames per second; 0 for sound.
      channels: channels of sound; 0 for video.
      language: language of the sound, as the source names it; "" if it does not.
    """

    name: str
    codec: str
    durations_s: tuple[Fraction, ...]
    sizes: tuple[int, ...]
    width: int = 0
    height: int = 0
    fps: Fraction = Fraction(0)
    channels: int = 0
    language: str = ""

    @property
    def peak_bps(self) -> int:
        """Highest bit rate of a segment in bit/s."""
        pairs = zip(self.sizes, self.durations_s, strict=True)
        return max(math.ceil(8 * size / duration) for size, duration in pairs)

    @property
    def mean_bps(self) -> int:
        """Bit rate of all segments in bit/s."""
        return math.ceil(8 * sum(self.sizes) / sum(self.durations_s))


def package(
    videos: dict[str, Path], sound: Path, folder: Path, *, shortest_s: Fraction, hdr: str = ""
) -> tuple[tuple[Track, ...], tuple[Sound, ...], tuple[str, ...]]:
    """Write segments and manifests of renditions, and of the sound of their source.

    Args:
      videos: the file of each rendition by its name. Wherever a segment may start, all need a key
        frame.
      sound: the source of the sound.
      folder: an empty folder.
      shortest_s: time in seconds after which the next key frame starts a segment.
      hdr: "PQ" or "HLG" of high-dynamic-range video.

    Returns:
      The tracks, those of the videos first; the sounds; and what was not copied of the source, in a
      few words each.

    Raises:
      UserError: FFmpeg cannot write the segments.
    """
    with ExitStack() as opened:
        sounds, left_out = sounds_of(sound)
        start = _start(sound) if sounds else Fraction(0)
        inputs: list[_Input] = []
        details: list[dict[str, Any]] = []
        for name, path in videos.items():
            file = opened.enter_context(open_all_streams(path, str(path)))
            stream = file.streams.video[0]
            inputs.append(_Input(file, stream, _first_time(stream), times=_times(path)))
            details.append(_details(name, stream))
        for number, each in enumerate(sounds, start=1):
            # One container would lose the packets of a stream while another one is read.
            file = opened.enter_context(open_all_streams(sound, str(sound)))
            inputs.append(_Input(file, file.streams[each.index], start, each))
            details.append({"name": f"sound-{number}", "language": each.language})
        damaged = _write_segments(inputs, folder, shortest_s=shortest_s)
    left_out += tuple(
        f"{count_text(count, 'damaged packet')} of {each}" for each, count in damaged.items()
    )
    found = _finish_dash(folder, details)
    for track in found:
        path = folder / track.name / "media.m3u8"
        path.write_text(media_playlist(track), encoding="utf-8")
    text = master_playlist(found, hdr=hdr)
    (folder / HLS_PLAYLIST).write_text(text, encoding="utf-8")
    return found, sounds, left_out


def media_playlist(track: Track) -> str:
    """Return the HLS playlist of a track, which is in the folder of the segments.

    Source: RFC 8216, and for the version and independent segments, draft-pantos-hls-rfc8216bis.
    """
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{_HLS_VERSION}", "#EXT-X-PLAYLIST-TYPE:VOD"]
    lines += [f"#EXT-X-TARGETDURATION:{math.ceil(max(track.durations_s))}"]
    lines += ["#EXT-X-INDEPENDENT-SEGMENTS", '#EXT-X-MAP:URI="init.mp4"']
    for number, duration in enumerate(track.durations_s, start=1):
        lines += [f"#EXTINF:{float(duration):.6f},", _segment_name(f"{number:05}")]
    return "\n".join([*lines, "#EXT-X-ENDLIST", ""])


def master_playlist(tracks: Sequence[Track], *, hdr: str = "") -> str:
    """Return the HLS playlist of a ladder.

    `BANDWIDTH` is the highest that a rendition and any of the sounds need together, over a segment.

    Args:
      tracks: videos and sounds.
      hdr: "PQ" or "HLG" of high-dynamic-range video.
    """
    lines = ["#EXTM3U", f"#EXT-X-VERSION:{_HLS_VERSION}", "#EXT-X-INDEPENDENT-SEGMENTS"]
    sounds = [track for track in tracks if track.channels]
    for number, track in enumerate(sounds, start=1):
        attributes = {
            "TYPE": "AUDIO", "GROUP-ID": f'"{_GROUP}"', "NAME": f'"{track.name}"',
            "LANGUAGE": f'"{track.language}"', "DEFAULT": "YES" if number == 1 else "NO",
            "AUTOSELECT": "YES", "CHANNELS": f'"{track.channels}"',
            "URI": f'"{track.name}/media.m3u8"',
        }  # fmt: skip
        if not track.language:
            del attributes["LANGUAGE"]
        lines.append(f"#EXT-X-MEDIA:{_attributes(attributes)}")
    for track in tracks:
        if track.channels:
            continue
        codecs = dict.fromkeys([track.codec, *(sound.codec for sound in sounds)])
        peak, mean = (
            getattr(track, name) + max((getattr(each, name) for each in sounds), default=0)
            for name in ("peak_bps", "mean_bps")
        )
        attributes = {
            "BANDWIDTH": str(peak), "AVERAGE-BANDWIDTH": str(mean),
            "CODECS": f'"{",".join(codecs)}"', "RESOLUTION": f"{track.width}x{track.height}",
            "FRAME-RATE": f"{float(track.fps):.3f}", "VIDEO-RANGE": hdr or "SDR",
        }  # fmt: skip
        if sounds:
            attributes["AUDIO"] = f'"{_GROUP}"'
        lines += [f"#EXT-X-STREAM-INF:{_attributes(attributes)}", f"{track.name}/media.m3u8"]
    return "\n".join([*lines, ""])


def hevc_name(record: bytes) -> str:
    """Return the name of an HEVC profile for players, such as "hvc1.1.6.L93.90".

    Args:
      record: HEVCDecoderConfigurationRecord, the content of an MP4 file's box `hvcC`.

    Source: ISO/IEC 14496-15, Annex E. FFmpeg's muxer gives it for streams without such a record.
    """
    space, tier, profile = record[1] >> 6, record[1] >> 5 & 1, record[1] & 31
    reversed_flags = int(f"{int.from_bytes(record[2:6], 'big'):032b}"[::-1], 2)
    constraints = [f"{each:x}" for each in record[6:12].rstrip(b"\0")]
    parts = [f"{('', 'A', 'B', 'C')[space]}{profile}", f"{reversed_flags:x}"]
    return ".".join(["hvc1", *parts, f"{'LH'[tier]}{record[12]}", *constraints])


def _details(name: str, video: VideoStream) -> dict[str, Any]:
    """Return what the muxer does not know of a video, as attributes of `Track`."""
    context = video.codec_context
    known = {"name": name, "width": video.width, "height": video.height, "fps": frame_rate(video)}
    if context.name == "hevc":
        assert context.extradata is not None
        known["codec"] = hevc_name(context.extradata)
    return known


def _start(source: Path) -> Fraction:
    """Return the time in seconds of the first picture of a source."""
    with open_video(source, str(source)) as (_, stream):
        return _first_time(stream)


def _times(video: Path) -> list[int]:
    with open_all_streams(video, str(video)) as container:
        packets = container.demux(container.streams.video[0])
        return sorted(each.pts for each in packets if each.size and each.pts is not None)


def _first_time(stream: Stream) -> Fraction:
    return (stream.start_time or 0) * (stream.time_base or Fraction(1))


@dataclass(frozen=True)
class _Input:
    """A stream that becomes a track.

    Attributes:
      container: the opened file, which nothing else reads.
      stream: the stream.
      start: time in seconds that becomes 0.
      sound: what is known of sound; None for video.
      times: of a video, the presentation times of all packets, ascending.
    """

    container: InputContainer
    stream: Stream
    start: Fraction
    sound: Sound | None = None
    times: Sequence[int] = ()


def _write_segments(
    inputs: Sequence[_Input], folder: Path, *, shortest_s: Fraction
) -> Counter[Sound]:
    """Write the packets of tracks, and return how many of sounds are damaged."""
    damaged: Counter[Sound] = Counter()
    options = {
        "seg_duration": f"{float(shortest_s):.6f}",
        "init_seg_name": "$RepresentationID$/init.mp4",
        "media_seg_name": f"$RepresentationID$/{_segment_name('$Number%05d$')}",
        # Heights whose rounded widths change the aspect may not share a set; they are joined later.
        "adaptation_sets": " ".join(f"id={at},streams={at}" for at in range(len(inputs))),
    }
    try:
        with av.open(f"file:{folder / DASH_MANIFEST}", "w", "dash", options=options) as target:
            added: list[Stream] = []
            for number, each in enumerate(inputs):
                (folder / str(number)).mkdir()
                added.append(_added(target, each))
            parts = [
                _packets(number, each, added[number], damaged) for number, each in enumerate(inputs)
            ]
            for _, _, packet in heapq.merge(*parts, key=lambda each: each[:2]):
                target.mux(packet)
    except (FFmpegError, ValueError) as error:
        if isinstance(error, OSError) and error.errno and error.errno > 0 and error.filename:
            raise  # the disk
        text = getattr(error, "strerror", None) or str(error)
        raise UserError(f'The segments cannot be written: FFmpeg reports "{text}".') from error
    return damaged


def _added(target: OutputContainer, each: _Input) -> Stream:
    if each.sound:
        return add_sound(target, each.container, each.sound)
    # Without `opaque`, PyAV looks for an encoder by the name of the decoder, which AV1 lacks.
    added = target.add_stream_from_template(each.stream, opaque=True)
    if each.stream.codec_context.name == "hevc":
        added.codec_context.codec_tag = "hvc1"  # players of Apple do not take hev1
    return added


def _packets(
    number: int, each: _Input, added: Stream, damaged: Counter[Sound]
) -> Iterator[tuple[Fraction, int, Packet[Any]]]:
    """Yield each packet of a stream with the time of its decoding and the number of its track."""
    packets = (
        sound_packets(each.container, each.sound, added, damaged)
        if each.sound
        else each.container.demux(each.stream)
    )
    for packet in packets:
        if packet.size and packet.dts is not None and packet.pts is not None:
            base = packet.time_base or Fraction(1)
            shift = round(each.start / base)
            if isinstance(each.stream, VideoStream):
                # How long it is shown. MP4 states the time to the next packet as decoded instead,
                # so that a frame before a pause may count for the pause.
                after = bisect_right(each.times, packet.pts)
                end = each.times[after] if after < len(each.times) else None
                frame = max(1, round(1 / (frame_rate(each.stream) * base)))
                packet.duration = frame if end is None else end - packet.pts
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, added
            yield packet.dts * base, number, packet


def _finish_dash(folder: Path, found: Sequence[dict[str, Any]]) -> tuple[Track, ...]:
    """Correct the manifest of the muxer, name the folders, and return the tracks.

    All videos become one adaptation set, in which a player switches. What the muxer states of the
    bit rate is the mean, of the frame rate the clock, and of a change between renditions that it
    needs no new header.

    Args:
      folder: of the manifest.
      found: what the muxer does not know of each track, as attributes of `Track`.
    """
    path = folder / DASH_MANIFEST
    for prefix, uri in (("", _MPD[1:-1]), ("xsi", "http://www.w3.org/2001/XMLSchema-instance")):
        ElementTree.register_namespace(prefix, uri)
    document = ElementTree.parse(path)  # noqa: S314 - the file that FFmpeg has just written
    root = document.getroot()
    period = root.find(f"{_MPD}Period")
    assert period is not None
    tracks: list[Track] = []
    videos: ElementTree.Element | None = None
    for number, (group, details) in enumerate(zip(list(period), found, strict=True)):
        shown = group.find(f"{_MPD}Representation")
        assert shown is not None
        track = _track(folder, shown, number, details)
        tracks.append(track)
        shown.set("id", track.name)
        shown.set("codecs", track.codec)
        shown.set("bandwidth", str(track.peak_bps))
        group.attrib.pop("bitstreamSwitching", None)
        if track.channels:
            continue
        shown.set("frameRate", str(track.fps))
        for name in ("frameRate", "par", "maxWidth", "maxHeight"):
            group.attrib.pop(name, None)
        if videos is None:
            videos = group
        else:
            videos.append(shown)
            period.remove(group)
    # The muxer cuts both to tenths of a second, and players do not show what is beyond.
    for name, take in (("maxSegmentDuration", max), ("mediaPresentationDuration", sum)):
        longest = max(take(track.durations_s) for track in tracks)
        root.set(name, f"PT{math.ceil(1000 * longest) / 1000:.3f}S")
    ElementTree.indent(document)
    document.write(path, encoding="utf-8", xml_declaration=True)
    return tuple(tracks)


def _track(folder: Path, shown: ElementTree.Element, number: int, details: dict[str, Any]) -> Track:
    """Return the track of a representation in the manifest, and name its folder."""
    template = shown.find(f"{_MPD}SegmentTemplate")
    assert template is not None
    clock = int(template.attrib["timescale"])
    durations = [
        Fraction(int(each.attrib["d"]), clock)
        for each in template.iter(f"{_MPD}S")
        for _ in range(1 + int(each.get("r", "0")))
    ]
    place = (folder / str(number)).rename(folder / details["name"])
    channels = shown.find(f"{_MPD}AudioChannelConfiguration")
    return Track(
        **{"codec": shown.get("codecs", ""), **details},
        durations_s=tuple(durations),
        sizes=tuple(
            (place / _segment_name(f"{index:05}")).stat().st_size
            for index in range(1, len(durations) + 1)
        ),
        channels=0 if channels is None else int(channels.attrib["value"]),
    )


def _segment_name(number: str) -> str:
    return f"{number}.m4s"


def _attributes(values: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in values.items())
