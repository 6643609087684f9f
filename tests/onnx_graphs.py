"""ONNX files that are made by hand, without our exporter."""

import json
from dataclasses import asdict

import av
import numpy as np
import onnx

from laser_dist.models.predictor_spec import PredictorSpec
from laser_dist.prediction.exported import METADATA_KEY, Metadata


def graph_of(nodes, outputs, *, metadata, inputs=(("frames", onnx.TensorProto.UINT8),)):
    """Return a hand-made ONNX file, as bytes."""
    values = [onnx.helper.make_tensor_value_info(n, t, [None, 8, 16, 3]) for n, t in inputs]
    results = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in outputs
    ]
    graph = onnx.helper.make_graph(nodes, "g", values, results)
    opset = [onnx.helper.make_opsetid("", 18)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    if metadata is not None:
        onnx.helper.set_model_props(made, {METADATA_KEY: metadata})
    return made.SerializeToString()


def mean_color(factor=1.0, axes=(1, 2)):
    """Return the nodes of a graph whose levels are the mean color times a factor."""
    make, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    constants = [
        make(
            "Constant", [], ["axes"], value=tensor("a", onnx.TensorProto.INT64, [len(axes)], axes)
        ),
        make("Constant", [], ["factor"], value=tensor("f", onnx.TensorProto.FLOAT, [], [factor])),
    ]
    return [
        *constants,
        make("Cast", ["frames"], ["floats"], to=onnx.TensorProto.FLOAT),
        make("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        make("Mul", ["means", "factor"], ["levels"]),
    ]


def about(**changes):
    spec = PredictorSpec(variant="mj-lat", levels=(1, 2, 3), scale="QP", simulated=True)
    metadata = Metadata(spec=spec, width=16, height=8, precision="float32", source="")
    return json.dumps({"format": 1, **asdict(metadata), **changes})


def write_light_inputs(folder):
    """Write `m.onnx`, whose levels are the mean color, and `clip.mp4`, which has a gray of 30."""
    content = graph_of(mean_color(), [("levels", [None, 3])], metadata=about())
    (folder / "m.onnx").write_bytes(content)
    with av.open(folder / "clip.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        gray = av.VideoFrame.from_ndarray(np.full((32, 64, 3), 30, np.uint8), "rgb24")
        for frame in [gray] * 5:
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
