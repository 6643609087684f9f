"""Decode, encode and measure video, in memory, through PyAV.

- `frames`: clips as arrays, color conversion and resizing.
- `containers`: open files with FFmpeg and detect damage.
- `facts`: how a clip is coded.
- `codec`: encode with x264 at VideoSet's settings; decode and sample video and images.
- `images`: open images with Pillow; encode JPEG at a quality factor.
- `quality`: PSNR, SSIM and XPSNR between two clips.
- `activity`: spatial and temporal information (ITU-T P.910).

The package imports neither TensorFlow, Beam nor Ray.
"""
