"""Runs a staged pipeline as its workers would, but without their image: `... gs://.../pipeline.pb`."""

import sys

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineState


def main(place: str) -> None:
    """Ends with the exception of a step that fails."""
    options = PipelineOptions([])
    FileSystems.set_options(options)
    with FileSystems.open(place) as file:
        pipeline = beam_runner_api_pb2.Pipeline.FromString(file.read())
    for environment in pipeline.components.environments.values():
        environment.urn = python_urns.EMBEDDED_PYTHON
        environment.payload = b""
    result = FnApiRunner().run_via_runner_api(pipeline, options)
    assert result.wait_until_finish() == PipelineState.DONE


if __name__ == "__main__":
    main(sys.argv[1])
