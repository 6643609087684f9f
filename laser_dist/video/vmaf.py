"""VMAF, measured by an `ffmpeg` program: the FFmpeg in PyAV's wheel does not have it."""

import json
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

from laser_dist.errors import UserError
from laser_dist.machine import num_cores
from laser_dist.storage.retries import reason
from laser_dist.storage.temporary import temporary_folder
from laser_dist.video.frames import filtered

MIN_SIDE = 18
"""Least width and height of a frame in pixels: with fewer, libvmaf 3 crashes."""

_LOG, _ERRORS = "vmaf.json", "errors.txt"
_HINT = "Use another ffmpeg."
_THREADS = 4  # memory grows with them: at 1080p to 1.4 GB for 16
_LOOKUP_S = 10.0
_EXIT_S = 300.0  # of the program, after the last frame


class VmafError(UserError):
    """The program failed."""


@cache
def vmaf_program() -> str | None:
    """Return the `ffmpeg` of the search path; None if there is none that has `libvmaf`."""
    found = shutil.which("ffmpeg")
    if found is None:
        return None
    program = os.path.abspath(found)  # it is started in another folder
    try:
        listed = subprocess.run(
            [program, "-hide_banner", "-filters"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LOOKUP_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return program if " libvmaf " in listed.stdout else None


class VmafMeter:
    """Compares frames while they are decoded. Made by `measuring_vmaf`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        """Take a running program and the folder of its log."""
        self._process = process
        self._folder = folder
        self._num_frames = 0

    def add(self, reference: av.VideoFrame, encoded: av.VideoFrame) -> None:
        """Compare two frames of the size and format that the program was started with.

        Raises:
          VmafError: the program has failed.
        """
        assert self._process.stdin is not None
        self._num_frames += 1
        try:
            for pair in zip(_planes(encoded), _planes(reference), strict=True):
                for plane in pair:
                    self._process.stdin.write(plane)
        except BrokenPipeError as error:
            raise self._failed() from error

    def scores(self) -> list[float]:
        """Return the VMAF of each frame, from 0 to 100; no frame can be added any more.

        Raises:
          VmafError: the program has failed.
        """
        try:
            self._process.communicate(timeout=_EXIT_S)
            document = json.loads((self._folder / _LOG).read_text(encoding="utf-8"))
            found = [float(frame["metrics"]["vmaf"]) for frame in document["frames"]]
        except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
            raise self._failed() from error
        if self._process.returncode != 0 or len(found) != self._num_frames:
            raise self._failed()
        return found

    def _failed(self) -> VmafError:
        self._process.kill()
        status = self._process.wait()
        lines = (self._folder / _ERRORS).read_text(errors="replace").strip().splitlines()
        problem = lines[-1].rstrip(".") if lines else f"it stopped with status {status}"
        return VmafError(f"ffmpeg could not measure VMAF: {problem}.", hint=_HINT)


@contextmanager
def measuring_vmaf(
    program: str, *, width: int, height: int, pix_fmt: str, fps: Fraction
) -> Generator[VmafMeter]:
    """Start a program that compares frames with the model vmaf_v0.6.1, at their size.

    Args:
      program: from `vmaf_program`.
      width: columns of a frame, even, at least `MIN_SIDE`.
      height: rows of a frame, even, at least `MIN_SIDE`.
      pix_fmt: FFmpeg's name of the pixel format, planar 4:2:0 of 8 or 10 bits.
      fps: frame rate.

    Raises:
      VmafError: the program does not start.
    """
    # One pipe carries both pictures, the encoded one above the other: with a pipe for each, the
    # program could wait for one while this process writes to the other.
    num_threads = min(_THREADS, num_cores())
    graph = (
        "split[a][b];[a]crop=iw:ih/2:0:0[encoded];[b]crop=iw:ih/2:0:ih/2[reference];"
        f"[encoded][reference]libvmaf=log_fmt=json:log_path={_LOG}:n_threads={num_threads}"
    )
    words = [
        program, "-hide_banner", "-loglevel", "error", "-f", "rawvideo", "-pixel_format", pix_fmt,
        "-video_size", f"{width}x{2 * height}", "-framerate", str(fps), "-i", "pipe:0",
        "-lavfi", graph, "-f", "null", "-",
    ]  # fmt: skip
    with temporary_folder() as folder, (folder / _ERRORS).open("wb") as errors:
        try:
            process = subprocess.Popen(
                words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
            )
        except OSError as error:
            raise VmafError(f"{program} does not start: {reason(error)}.", hint=_HINT) from error
        assert process.stdin is not None
        try:
            yield VmafMeter(process, folder)
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):  # of bytes that the program has not read
                process.stdin.close()


def _planes(frame: av.VideoFrame) -> list[bytes]:
    """Return the samples of each plane, without the padding of rows."""
    if any(plane.line_size < 0 for plane in frame.planes):  # rows from bottom to top
        frame = filtered(frame, ("copy", ""))
    num_bytes = 2 if max(component.bits for component in frame.format.components) > 8 else 1
    found: list[bytes] = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        found.append(rows[: plane.height, : plane.width * num_bytes].tobytes())
    return found
