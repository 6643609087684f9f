"""Decode, encode and measure video, in memory, through PyAV.

- `frames`: a clip as arrays, its colors and the project's one resize.
- `codec`: x264 at VideoSet's settings; decode, probe and sample anything FFmpeg reads
  (`containers` finds damage).
- `quality`: PSNR, SSIM and XPSNR between two clips.
- `activity`: spatial and temporal information (ITU-T P.910).

Nothing here knows TensorFlow, Beam or Ray.
"""
