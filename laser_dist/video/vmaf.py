"""VMAF, measured by an `ffmpeg` program that has it: the FFmpeg inside PyAV has not."""

import json
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
from laser_dist.storage.temporary import temporary_folder

_LOG, _ERRORS = "vmaf.json", "errors.txt"
_EXIT_S = 300  # of the program, after the last frame


@cache
def vmaf_program() -> str | None:
    """Return the `ffmpeg` of the search path if it has the filter `libvmaf`; else None."""
    program = shutil.which("ffmpeg")
    if program is None:
        return None
    words = [program, "-hide_banner", "-filters"]
    listed = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return program if " libvmaf " in listed.stdout else None


class VmafMeter:
    """Compares frames while they are decoded. Made by `measuring_vmaf`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        """Take a running program and the folder of its log."""
        self._process = process
        self._folder = folder

    def add(self, reference: av.VideoFrame, encoded: av.VideoFrame) -> None:
        """Compare two frames of the size and format that the program was started with.

        Raises:
          UserError: the program has failed.
        """
        assert self._process.stdin is not None
        try:
            for pair in zip(_planes(encoded), _planes(reference), strict=True):
                for plane in pair:
                    self._process.stdin.write(plane)
        except BrokenPipeError as error:
            raise self._failed() from error

    def scores(self) -> list[float]:
        """Return the VMAF of each frame, from 0 to 100; no frame can be added any more.

        Raises:
          UserError: the program has failed.
        """
        try:
            self._process.communicate(timeout=_EXIT_S)
            document = json.loads((self._folder / _LOG).read_text(encoding="utf-8"))
            return [float(frame["metrics"]["vmaf"]) for frame in document["frames"]]
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
            raise self._failed() from error

    def _failed(self) -> UserError:
        lines = (self._folder / _ERRORS).read_text(errors="replace").strip().splitlines()
        return UserError(
            f"ffmpeg could not measure VMAF: {lines[-1] if lines else 'it said nothing'}.",
            hint="Add --no-verify, or use an ffmpeg without libvmaf.",
        )


@contextmanager
def measuring_vmaf(
    program: str, *, width: int, height: int, pix_fmt: str, fps: Fraction
) -> Generator[VmafMeter]:
    """Start a program that compares frames with the model vmaf_v0.6.1, at their size.

    Args:
      program: from `vmaf_program`.
      width: columns of a frame, even.
      height: rows of a frame, even.
      pix_fmt: FFmpeg's name of the pixel format, planar 4:2:0 of 8 or 10 bits.
      fps: frame rate.
    """
    # One pipe carries both pictures, the encoded one above the other: with a pipe for each, the
    # program could wait for one while this process writes to the other.
    graph = (
        "split[a][b];[a]crop=iw:ih/2:0:0[encoded];[b]crop=iw:ih/2:0:ih/2[reference];"
        f"[encoded][reference]libvmaf=log_fmt=json:log_path={_LOG}:n_threads={num_cores()}"
    )
    words = [
        program, "-hide_banner", "-loglevel", "error", "-f", "rawvideo", "-pixel_format", pix_fmt,
        "-video_size", f"{width}x{2 * height}", "-framerate", str(fps), "-i", "pipe:0",
        "-lavfi", graph, "-f", "null", "-",
    ]  # fmt: skip
    with temporary_folder() as folder, (folder / _ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
        )
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
    num_bytes = 2 if max(component.bits for component in frame.format.components) > 8 else 1
    found: list[bytes] = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        found.append(rows[: plane.height, : plane.width * num_bytes].tobytes())
    return found
