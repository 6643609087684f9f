"""The sound of a ladder: copied if browsers play its codec, else converted to AAC."""

# PyAV's stubs leave the stream type of packets open.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import InvalidDataError
from av.filter import Graph
from av.packet import Packet
from av.stream import Stream

from laser_dist.video.containers import SOUND_DECODERS, open_all_streams
from laser_dist.video.packets import continued

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
      rate: samples per second of sound that is converted; 0 if it is copied.
      channels: its number of channels.
    """

    index: int
    codec: str
    language: str
    rate: int = 0
    channels: int = 0

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
        heard = _heard(source, sound)
        if heard is None:
            left_out.append(str(sound))
        else:
            found.append(heard)
    return tuple(found), tuple(left_out)


def add_sound(target: OutputContainer, source: InputContainer, sound: Sound) -> Stream:
    """Add a stream of sound to a file, copied or converted, and return it."""
    stream = cast(AudioStream, source.streams[sound.index])
    if sound.is_copied:
        added: Stream = target.add_stream_from_template(stream, opaque=True)
    else:
        # Browsers play these rates and layouts everywhere.
        rate = 44100 if sound.rate % 11025 == 0 else 48000
        channels = next(n for n in sorted(_LAYOUTS, reverse=True) if n <= max(1, sound.channels))
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
    packets = continued(source, source.demux(stream))
    if sound.is_copied:
        yield from packets
        return
    encoder = cast(AudioStream, added)
    graph: Graph | None = None
    form: tuple[Any, ...] = ()
    for packet in packets:
        try:
            frames = cast(list[av.AudioFrame], packet.decode())
        except InvalidDataError:
            damaged[sound] += 1
            continue
        for frame in frames:
            new_form = (frame.format.name, frame.layout.name, frame.sample_rate)
            if graph and new_form != form:  # broadcasters change from stereo to mono
                graph.push(None)
                yield from _encoded(graph, encoder)
                graph = None
            graph, form = graph or _converter(frame, encoder), new_form
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


def _heard(source: Path, sound: Sound) -> Sound | None:
    """Return a sound with a packet, and one that decodes if it is converted; None without one.

    Headers of some files state neither its rate nor its channels, so a frame does.
    """
    with open_all_streams(source, str(source)) as container:
        stream = container.streams[sound.index]
        context = stream.codec_context
        if not sound.is_copied and (context is None or context.name not in SOUND_DECODERS):
            return None
        for packet in container.demux(stream):
            if packet.size and sound.is_copied:
                return sound
            try:
                frames = [] if sound.is_copied else cast(list[av.AudioFrame], packet.decode())
            except InvalidDataError:
                continue
            for frame in frames:
                channels = frame.layout.nb_channels
                return replace(sound, rate=frame.sample_rate, channels=channels)
    return None


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
