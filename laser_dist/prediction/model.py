"""A loaded model that predicts clips: `laser_dist.load`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from laser_dist.errors import UserError
from laser_dist.jnd.scale import LEVEL_SUR, Scale
from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction import NUM_FRAMES
from laser_dist.prediction.clips import (
    FailedClip,
    HdrHandling,
    Sampling,
    predict_clip,
    read_clip,
)
from laser_dist.prediction.isolated import IsolatedReader
from laser_dist.prediction.predict import (
    ClipPrediction,
    check_interval,
    check_sur,
    combined_clip,
    combined_scene,
    predict_frames,
)
from laser_dist.prediction.predictor import Predictor
from laser_dist.video.frames import check_rgb, evenly_spaced_indices, resize_rgb

_BATCH = 16

Source = str | os.PathLike[str] | bytes | NDArray[np.uint8] | Iterable[NDArray[np.uint8]]
"""A clip: a path, the content of a file, an array [N, H, W, 3] of any size, or single frames."""


class Model:
    """Predicts the JND levels of clips; several threads may use one model."""

    def __init__(self, predictor: Predictor, *, reader: IsolatedReader | None = None) -> None:
        """Take a predictor; `load` makes both.

        Args:
          predictor: a loaded predictor.
          reader: reads files in a child process, so that one that crashes a decoder or takes all
            memory costs that file only; None to read them here.
        """
        self.predictor = predictor
        self._read = read_clip if reader is None else reader.read

    @property
    def spec(self) -> PredictorSpec:
        """Meaning of the output: variant, levels, and whether the viewers were simulated."""
        return self.predictor.spec

    @property
    def scale(self) -> Scale:
        """Scale of the levels."""
        return self.predictor.scale

    @property
    def runtime(self) -> str:
        """What runs the model."""
        return self.predictor.runtime

    def predict(
        self,
        clip: Source,
        *,
        sur: float = LEVEL_SUR,
        interval: float | None = None,
        num_frames: int = NUM_FRAMES,
        scenes: bool = False,
        hdr: HdrHandling = "tonemap",
        progress: Callable[[float], None] = lambda share: None,
    ) -> ClipPrediction:
        """Predict the levels of a clip.

        A file of up to 10 s counts as one scene. In a longer one, the scenes are found, and each is
        predicted; the levels of the clip are those of its strictest scene.

        Args:
          clip: path or content of a video or image of a supported format; or RGB frames, uint8
            [N, H, W, 3] of any size; or an iterator of frames [H, W, 3], of which all are used.
          sur: satisfied-user ratio to target, in (0, 1).
          interval: share of clips whose level is in the interval, in (0, 1); None for 0.9 if the
            model is calibrated.
          num_frames: number of frames to sample evenly over each scene of a file, or over an
            array; fewer if it has fewer, or in one of several scenes that is shorter than 5 s. They
            are scaled, not cropped, to the model's size.
          scenes: find the scenes of a file of up to 10 s, too.
          hdr: "tonemap" to map files in HDR (PQ or HLG) to SDR, or "refuse".
          progress: called with the share of a file that is done.

        Raises:
          UserError: the file is missing or not a readable video or image, there is no frame, it is
            in HDR and that is refused, `sur` is not 0.75 for a model without spreads, or the model
            has no intervals for `interval`.
          ValueError: frames have another shape or type, or `hdr` has no such value.
          TypeError: the clip is none of these.
        """
        _check_hdr(hdr)
        check_sur(self.predictor, sur)
        interval = check_interval(self.predictor, interval)
        name = _name_of(clip)
        if isinstance(clip, str | os.PathLike | bytes):
            source = clip if isinstance(clip, bytes) else Path(clip)
            sampling = Sampling(
                num_frames=num_frames,
                width=self.predictor.width,
                height=self.predictor.height,
                scenes=scenes,
                hdr=hdr,
            )
            read = partial(self._read, source, sampling)
            return predict_clip(
                self.predictor, read, clip=name, sur=sur, interval=interval, progress=progress
            )
        if isinstance(clip, np.ndarray):
            if clip.ndim != 4 or 0 in clip.shape[1:]:
                raise ValueError(f"frames must be uint8 [N, H, W, 3], got {clip.shape}")
            length = len(clip)
            clip = clip[evenly_spaced_indices(length, min(num_frames, length))]
        else:
            length = None
        outputs = [predict_frames(self.predictor, each) for each in self._batches(clip)]
        if not outputs:
            raise UserError(f"{name} has no frames.")
        found = np.concatenate(outputs)
        frames = range(length or len(found))
        scene = combined_scene(self.predictor, found, frames=frames, sur=sur)
        return combined_clip(self.predictor, [scene], clip=name, sur=sur, interval=interval)

    def predict_many(
        self,
        clips: Iterable[Source],
        *,
        sur: float = LEVEL_SUR,
        interval: float | None = None,
        num_frames: int = NUM_FRAMES,
        scenes: bool = False,
        hdr: HdrHandling = "tonemap",
        progress: Callable[[float], None] = lambda share: None,
    ) -> Iterator[ClipPrediction | FailedClip]:
        """Predict clips one after the other, in order; a clip that fails does not stop the others.

        Args:
          clips: clips, as for `predict`.
          sur: as for `predict`.
          interval: as for `predict`.
          num_frames: as for `predict`.
          scenes: as for `predict`.
          hdr: as for `predict`.
          progress: as for `predict`, for each clip.

        Yields:
          The prediction of each clip, or why there is none.

        Raises:
          UserError: `sur` is not 0.75 for a model without spreads, or the model has no intervals
            for `interval`.
        """
        _check_hdr(hdr)
        check_sur(self.predictor, sur)
        check_interval(self.predictor, interval)
        for clip in clips:
            try:
                yield self.predict(
                    clip,
                    sur=sur,
                    interval=interval,
                    num_frames=num_frames,
                    scenes=scenes,
                    hdr=hdr,
                    progress=progress,
                )
            except UserError as error:
                yield FailedClip(clip=_name_of(clip), message=error.message, hint=error.hint)
            except (TypeError, ValueError) as error:
                if isinstance(clip, str | os.PathLike | bytes):
                    raise  # not of the frames that were given
                yield FailedClip(clip=_name_of(clip), message=f"{error}", hint="")

    def _batches(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Yield some frames at a time, at the model's size."""
        iterator, predictor = iter(frames), self.predictor
        while some := list(islice(iterator, _BATCH)):
            for frame in some:
                check_rgb(frame)
            size = {"width": predictor.width, "height": predictor.height}
            yield np.stack([resize_rgb(frame, **size) for frame in some])


def _check_hdr(hdr: str) -> None:
    if hdr not in get_args(HdrHandling):
        raise ValueError(f"hdr must be one of {get_args(HdrHandling)}, got {hdr!r}")


def _name_of(clip: Source) -> str:
    if isinstance(clip, str | os.PathLike):
        return os.fspath(clip)
    if isinstance(clip, bytes):
        return f"{len(clip)} bytes in memory"
    return "The array" if isinstance(clip, np.ndarray) else "The iterator"
