"""Tiny settings for the tests of the synthetic datasets."""

from beam_pipelines.synthetic.videoset import VideosetSettings

TINY = VideosetSettings(num_sources=4, width=64, height=48, num_frames=3, qps=(22, 28, 34, 40))


def contents(folder):
    """Return the content of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
