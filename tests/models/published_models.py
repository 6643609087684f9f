"""Writes a published model's weight file as the authors' Keras did, and what the model answers.

A separate program, because a process has one Keras: `published_models.py FOLDER SIZES NAME...`,
with SIZES "small" or "published". It leaves in FOLDER, for each name of `NAMES` or those given,
`NAME.h5` and `NAME.npz`: whole-numbered random RGB `frames` [B, H, W, 3], and what the model makes
of them when it is given B, G, R: `levels` [B, L] and, of what reconstructs, `images` [B, H, W, 3].

The graphs are flat and of plain layers. They are written independently from the paper, not with the
project's builders, whose order of layers is what they test.
"""

import sys
from pathlib import Path

import numpy as np
import tf_keras
from tf_keras import layers

NAMES = ("image", "lat", "rec", "e2e-lat", "e2e-rec", "mj-lat", "mj-rec")
SIZES = {
    # Different sizes in all layers, as far as the topology allows.
    "small": {
        "num_frames": 3,
        "filters": 6,
        "latent_filters": 10,
        "height": 64,
        "width": 96,
        "latent_head": ((8, 16, 24, 17), (7, 5)),
        "frame_head": ((8, 7, 6, 5, 4), (9,)),
    },
    "published": {
        "num_frames": 2,
        "filters": 128,
        "latent_filters": 192,
        "height": 352,
        "width": 640,
        "latent_head": ((64, 128, 256, 512), (256, 128)),
        "frame_head": ((512, 256, 128, 64, 32), (512,)),
    },
}


def encoder(x, sizes):
    for _ in range(3):
        x = layers.Conv2D(sizes["filters"], 5, strides=2, padding="same")(x)
        x = layers.LeakyReLU(0.05)(x)
    return layers.Conv2D(sizes["latent_filters"], 5, strides=2, padding="same")(x)


def decoder(x, sizes, name=None):
    for _ in range(3):
        x = layers.Conv2DTranspose(sizes["filters"], 5, strides=2, padding="same")(x)
        x = layers.LeakyReLU(0.05)(x)
    return layers.Conv2DTranspose(3, 5, strides=2, padding="same", name=name)(x)


def attention(x):
    channels = x.shape[-1]
    first, second = layers.Dense(channels // 8, activation="relu"), layers.Dense(channels)
    average = layers.Reshape((1, 1, channels))(layers.GlobalAveragePooling2D()(x))
    maximum = layers.Reshape((1, 1, channels))(layers.GlobalMaxPooling2D()(x))
    both = layers.Add()([second(first(average)), second(first(maximum))])
    return layers.Multiply()([x, layers.Activation("sigmoid")(both)])


def block(x, filters):
    x = layers.Conv2D(filters, 3, padding="same")(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def latent_head(features, sizes):
    (first, second, third, fourth), dense = sizes["latent_head"]
    branches = [attention(block(layers.BatchNormalization()(each), first)) for each in features]
    x = layers.Multiply()(branches) if len(branches) > 1 else branches[0]
    x = layers.MaxPooling2D()(attention(block(x, second)))
    x = attention(block(x, third))
    x = layers.MaxPooling2D()(attention(block(x, fourth)))
    x = layers.Flatten()(x)
    outputs = []
    for name in output_names(features):
        level = x
        for units in dense:
            level = layers.Dense(units, activation="relu")(level)
        outputs.append(layers.Dense(1, activation="relu", name=name)(level))
    return outputs


def frame_head(features, sizes):
    filters, (units,) = sizes["frame_head"]
    branches = [
        layers.MaxPooling2D()(block(layers.BatchNormalization()(each), filters[0]))
        for each in features
    ]
    x = layers.Multiply()(branches) if len(branches) > 1 else branches[0]
    for number in filters[1:]:
        x = layers.MaxPooling2D()(block(x, number))
    x = layers.Dense(units, activation="relu")(layers.Flatten()(x))
    return [layers.Dense(1, activation="relu", name=name)(x) for name in output_names(features)]


def output_names(features):
    return ["JND1_output", "JND2_output", "JND3_output"] if len(features) > 1 else ["JND_output"]


def model_named(name, sizes):
    """The model; its levels come last."""
    raw = layers.Input((sizes["height"], sizes["width"], 3))
    if name == "image":
        return tf_keras.Model(raw, decoder(encoder(raw, sizes), sizes))
    latents = [encoder(raw, sizes) for _ in range(3 if name.startswith("mj") else 1)]
    if name in {"lat", "mj-lat"}:
        return tf_keras.Model(raw, latent_head(latents, sizes))
    frames = [decoder(each, sizes, "JNDImg" if "e2e" in name else None) for each in latents]
    levels = latent_head(latents, sizes) if name == "e2e-lat" else frame_head(frames, sizes)
    return tf_keras.Model(raw, [*frames, *levels] if "e2e" in name else levels)


def randomize(model, frames, rng):
    """Random weights that keep what flows through the model alive, and levels near 30."""
    for layer in model.layers:
        for weight in layer.weights:
            what = weight.name.rpartition("/")[2].removesuffix(":0")
            if what in {"gamma", "moving_variance"}:
                values = rng.uniform(0.5, 1.5, weight.shape)
            elif what == "kernel":
                inputs = np.prod(weight.shape[:-1])
                # Dense ones lean to one side, else a handful of units may all be dead.
                center = 0.5 if len(weight.shape) == 2 else 0
                values = rng.normal(center, 1.5, weight.shape) / np.sqrt(inputs)
            else:
                values = rng.normal(0, 0.3, weight.shape)
            weight.assign(values)
    levels = [each for each in model.layers if each.name.endswith("_output")]
    if not levels:
        return
    before = tf_keras.Model(model.input, [each.input for each in levels])
    hidden = before(frames) if len(levels) > 1 else [before(frames)]
    for layer, values in zip(levels, hidden, strict=True):
        kernel = rng.normal(0, 1, layer.kernel.shape)
        spread = (np.asarray(values) @ kernel).std()
        assert spread > 0, "what the output sees is dead"
        # Levels that differ from frame to frame by a few QP.
        kernel *= 3 / spread
        layer.kernel.assign(kernel)
        layer.bias.assign(30 - (np.asarray(values) @ kernel).mean(axis=0) + rng.uniform(-5, 5, 1))


def write(folder, name, sizes, rng):
    model = model_named(name, sizes)
    frames = rng.uniform(0, 255, (sizes["num_frames"], sizes["height"], sizes["width"], 3))
    # Coarse, and of differing brightness and color, else one frame of noise is like another.
    frames = np.rint(frames * rng.uniform(0.1, 1, (len(frames), 1, 1, 3))).astype("float32")
    bgr = frames[..., ::-1]
    randomize(model, bgr, rng)
    answers = model(bgr)
    answers = answers if isinstance(answers, list) else [answers]
    levels = [np.asarray(each) for each in answers if len(each.shape) == 2]
    images = [np.asarray(each) for each in answers if len(each.shape) == 4]
    kept = {"frames": frames, "parameters": model.count_params()}
    if levels:
        kept["levels"] = np.hstack(levels)
    if images:
        kept["images"] = images[0]
    np.savez(folder / f"{name}.npz", **kept)
    model.save_weights(folder / f"{name}.h5")


def main():
    folder, sizes = Path(sys.argv[1]), SIZES[sys.argv[2]]
    names = sys.argv[3:] or NAMES
    for name in names:
        write(folder, name, sizes, np.random.default_rng(NAMES.index(name)))


if __name__ == "__main__":
    main()
