"""The sound of a ladder: copied if browsers play its codec, else converted to AAC."""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import InvalidDataError
from av.filter import Graph
from av.packet import Packet
from av.stream import Stream

from laser_dist.video.containers import open_all_streams

SOUND_CODECS = ("aac", "ac3", "eac3", "opus")
"""FFmpeg's names of the codecs of sound that browsers play from fMP4."""

AAC_BPS = 64_000
"""Bit rate per channel in bit/s: what FFmpeg's guide to AAC advises for its own encoder."""

_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


@dataclass(frozen=True)
class Sound:
    """A stream of sound.

    Attributes:
      index: position among the streams of the source.
      codec: FFmpeg's name of its codec.
      language: as the source names it; "" if it does not.
    """

    index: int
    codec: str
    language: str

    @property
    def is_copied(self) -> bool:
        """Whether its packets are copied; else it is converted."""
        return self.codec in SOUND_CODECS

    def __str__(self) -> str:
        """Return its position, and its codec if that is known."""
        return f"audio stream {self.index}{self.codec and f' ({self.codec})'}"


def sounds_of(source: Path) -> tuple[tuple[Sound, ...], tuple[str, ...]]:
    """Return the streams of sound that can be copied or converted, and what else is left out.

    Raises:
      UserError: the file cannot be read.
    """
    found: list[Sound] = []
    with open_all_streams(source, str(source)) as container:
        sounds = [_sound(stream) for stream in container.streams.audio]
        left_out = [f"subtitle stream {stream.index}" for stream in container.streams.subtitles]
    for sound in sounds:
        if _has_sound(source, sound):
            found.append(sound)
        else:
            left_out.append(str(sound))
    return tuple(found), tuple(left_out)


def add_sound(target: OutputContainer, source: InputContainer, sound: Sound) -> Stream:
    """Add a stream of sound to a file, copied or converted, and return it."""
    stream = cast(AudioStream, source.streams[sound.index])
    if sound.is_copied:
        added: Stream = target.add_stream_from_template(stream, opaque=True)
    else:
        # Browsers play these rates and layouts everywhere.
        rate = 44100 if stream.sample_rate % 11025 == 0 else 48000
        channels = next(n for n in sorted(_LAYOUTS, reverse=True) if n <= max(1, stream.channels))
        added = target.add_stream("aac", rate=rate, layout=_LAYOUTS[channels])
        added.codec_context.bit_rate = AAC_BPS * channels
    if sound.language:
        added.metadata["language"] = sound.language
    return added


def sound_packets(
    source: InputContainer, sound: Sound, added: Stream, damaged: Counter[Sound]
) -> Iterator[Packet[Any]]:
    """Yield the packets of a stream that `add_sound` added, with the times of the source.

    Args:
      source: the source; nothing else may read this container.
      sound: the stream.
      added: what `add_sound` returned.
      damaged: counts the packets that cannot be decoded; silence takes their place.
    """
    stream = source.streams[sound.index]
    if sound.is_copied:
        yield from source.demux(stream)
        return
    encoder = cast(AudioStream, added)
    graph: Graph | None = None
    for packet in source.demux(stream):
        try:
            frames = cast(list[av.AudioFrame], packet.decode())
        except InvalidDataError:
            damaged[sound] += 1
            continue
        for frame in frames:
            graph = graph or _converter(frame, encoder)
            graph.push(frame)
            yield from _encoded(graph, encoder)
    if graph:
        graph.push(None)
        yield from _encoded(graph, encoder)
    yield from encoder.encode(None)


def _sound(stream: AudioStream) -> Sound:
    context = stream.codec_context
    language = stream.language or ""
    name = context.codec.canonical_name if context else ""
    return Sound(stream.index, name, "" if language == "und" else language)  # undetermined


def _has_sound(source: Path, sound: Sound) -> bool:
    """Return whether there is a packet, and one that can be decoded if it must be."""
    with open_all_streams(source, str(source)) as container:
        stream = container.streams[sound.index]
        if stream.codec_context is None:
            return False
        for packet in container.demux(stream):
            if packet.size and sound.is_copied:
                return True
            try:
                if not sound.is_copied and packet.decode():
                    return True
            except InvalidDataError:
                continue
    return False


def _converter(frame: av.AudioFrame, encoder: AudioStream) -> Graph:
    """Return the filters from frames like one to those that an encoder takes."""
    context = encoder.codec_context
    formats = (
        f"sample_fmts={context.format.name}:sample_rates={context.sample_rate}"
        f":channel_layouts={context.layout.name}"
    )
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name,
            time_base=frame.time_base,
        ),
        graph.add("aresample", "async=1"),  # gaps become silence: the encoder ignores times
        graph.add("aformat", formats),
        graph.add("abuffersink"),
    ).configure()
    return graph


def _encoded(graph: Graph, encoder: AudioStream) -> Iterator[Packet[Any]]:
    """Yield what the frames that leave the filters are encoded to."""
    while True:
        try:
            frame = cast(av.AudioFrame, graph.pull())
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield from encoder.encode(frame)
