"""Measure how far the prediction of a few frames is from that of all frames of a clip.

    python benchmarks/sampled_frames.py demo.onnx      # 5 minutes

The model is an exported one, such as that of `laser-jnd demo`. The clips are filmed with a virtual
camera from the photographs that scikit-image ships: five seconds at 25 frames per second, with
pans, zooms, and hand-held movement.
"""

import argparse

import numpy as np
from results import table, write_result

SECONDS, FPS = 5, 25
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 25)
CLIPS = 45


def main() -> None:
    """Run the script."""
    import laser_dist
    from beam_pipelines.synthetic.footage import load_photo, shipped_photographs
    from laser_dist.prediction import NUM_FRAMES
    from laser_dist.prediction.predict import predict_frames
    from laser_dist.simulation.camera import draw_shot, film
    from laser_dist.video.frames import evenly_spaced_indices

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="exported model of a trained predictor")
    arguments = parser.parse_args()
    model = laser_dist.load(arguments.model)
    width, height = model.predictor.width, model.predictor.height
    photos = [load_photo(each.path) for each in shipped_photographs()]
    rng = np.random.default_rng(7)
    errors: dict[int, list[np.ndarray]] = {count: [] for count in COUNTS}
    for index in range(CLIPS):
        photo = photos[index % len(photos)]
        shot = draw_shot(rng, photo.shape[1], photo.shape[0], width / height)
        frames = film(photo, shot, num_frames=SECONDS * FPS, width=width, height=height)
        found = predict_frames(model.predictor, frames)
        levels = found[..., 0] if model.spec.spread else found
        for count, each in errors.items():
            chosen = evenly_spaced_indices(len(levels), count)
            each.append(np.abs(levels[chosen].mean(axis=0) - levels.mean(axis=0)))
        print(f"{index + 1}/{CLIPS}", flush=True)
    rows, means = [], {}
    for count, each in errors.items():
        values = np.stack(each)
        means[count] = values.mean()
        summary = (values.mean(), np.percentile(values, 95), values.max())
        rows.append([count, *(round(float(value), 3) for value in summary)])
    unit = model.scale.name
    write_result(
        "sampled_frames",
        title="Number of sampled frames",
        simulated=model.spec.simulated,
        summary=f"With {NUM_FRAMES} frames, which is the default, a level is off by"
        f" {means[NUM_FRAMES]:.2f} {unit} on average from the mean over all frames of a clip.",
        tables=[
            table(
                "Difference from the prediction of all 125 frames",
                ["Frames", f"Mean ({unit})", f"95th percentile ({unit})", f"Largest ({unit})"],
                rows,
            )
        ],
        notes=[
            f"Predictions of {model.spec.variant} for {len(model.spec.levels)} levels of"
            f" {CLIPS} clips.",
            "A clip has 5 s of one scene. Frames are the centers of equal intervals.",
        ],
    )


if __name__ == "__main__":
    main()
