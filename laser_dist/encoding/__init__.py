"""Encode clips at their JND levels: plan the quantizers, encode, compare, hand over to other tools.

- `plan`: a quantizer for each scene, from a prediction.
- `encoders`: x264, x265 and SVT-AV1, and their options for a quantizer.
- `matching`: the CRF of another encoder that has the quality of x264 at a QP.
- `prepare`: frames of a file as encoders take them.
- `segments`: the packets of scenes, encoded in one go or in segments on several machines.
- `transcode`: encodes the video of a file, and copies everything else.
- `verify`: compares an encoded file with its source.
- `encode`: all of these for one clip.
- `folder`: many clips, some at a time.
- `ladder`: which renditions of a clip are worth their storage.
- `packaging`: renditions as segments, with the manifests of HLS and DASH.
- `streaming`: a ladder, encoded and packaged.
- `handover`: plans in the formats of other tools.
"""
