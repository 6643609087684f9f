"""Prediction: load a trained or exported model and predict the JND levels of clips.

- `predictor`: a model with the meaning of its output, whichever library runs it.
- `load`: `laser_dist.load`, which loads a run or a model file of any kind.
- `predict`: the levels of frames, combined for a clip.
- `clips`: reads a clip and predicts it, in one process or two.
- `isolated`: reads clips in a child process.
- `model`: predicts clips of any form.
- `notes`: what about a clip differs from what a model has learned from.
- `keras_models`: models that Keras runs.
- `exported`: exported models, which ONNX Runtime or OpenVINO runs.
- `export`: writes exported models, and checks each against Keras.

All but `keras_models` and `export` import neither Keras nor TensorFlow.
"""

NUM_FRAMES = 2
"""Frames that are sampled from a scene unless another number is given.

The mean over two is 0.18 QP from that over all frames of 5 s, and over four 0.11; see
`benchmarks/sampled_frames.py`.
"""
