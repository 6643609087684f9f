"""Steps that run in child processes."""

import signal
import time

import apache_beam as beam
import isolated_work
import pytest
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from beam_pipelines.parallel import InChildProcesses
from beam_pipelines.runner import local_options, new_pipeline, run_to_end
from laser_dist.errors import UserError

pytestmark = pytest.mark.slow  # child processes take a second to start


class Call(InChildProcesses):
    """Calls a function of `isolated_work` with each element; negative results are tagged."""

    def __init__(self, function, num_processes):
        super().__init__(num_processes)
        self._function = function

    def work(self, element):
        return self.in_child(self._function, *element)

    def outputs(self, outcome):
        yield outcome if outcome >= 0 else beam.pvalue.TaggedOutput("negative", outcome)


def run(elements, function, num_processes):
    pipeline = new_pipeline(local_options(num_processes))
    called = beam.ParDo(Call(function, num_processes)).with_outputs("negative", main="others")
    outputs = pipeline | beam.Create(elements) | called
    return pipeline, outputs


@pytest.mark.parametrize("num_processes", [1, 3])
def test_every_element_is_worked_on_once_and_outputs_keep_their_tags(num_processes):
    elements = [(number, -5) for number in range(10)]
    pipeline, outputs = run(elements, isolated_work.add, num_processes)
    assert_that(outputs["others"], equal_to([0, 1, 2, 3, 4]), label="others")
    assert_that(outputs["negative"], equal_to([-5, -4, -3, -2, -1]), label="negative")
    run_to_end(pipeline)


def test_an_output_has_the_time_and_the_window_of_its_element():
    pipeline = new_pipeline(local_options(3))
    elements = [TimestampedValue((number, -5), number) for number in range(10)]
    called = beam.ParDo(Call(isolated_work.add, 3)).with_outputs("negative", main="others")
    outputs = pipeline | beam.Create(elements) | beam.WindowInto(FixedWindows(2)) | called
    for name in ("others", "negative"):
        when = outputs[name] | name >> beam.Map(when_of)
        numbers = range(5) if name == "negative" else range(5, 10)
        expected = [(number - 5, number, number // 2 * 2) for number in numbers]
        assert_that(when, equal_to(expected), label=f"when {name}")
    run_to_end(pipeline)


def when_of(output, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
    return output, int(timestamp), int(window.start)


def test_a_child_that_crashes_is_a_user_error():
    pipeline, _ = run([(int(signal.SIGSEGV),)], isolated_work.die, 2)
    with pytest.raises(UserError, match="A child process failed: .* killed by SIGSEGV"):
        run_to_end(pipeline)


def test_a_child_that_runs_out_of_memory_twice_is_a_user_error():
    pipeline, _ = run([(9,)], isolated_work.die, 2)
    with pytest.raises(UserError, match=r"(?s)Memory ran out twice.*SIGKILL.*fewer --workers"):
        run_to_end(pipeline)


def test_what_runs_out_of_memory_is_tried_again_while_no_other_child_works(tmp_path):
    elements = [(number, str(tmp_path)) for number in (1, 2, 0, 3, 4, 5, 6)]
    pipeline, outputs = run(elements, isolated_work.die_once, 3)
    assert_that(outputs["others"], equal_to([0] * len(elements)))
    run_to_end(pipeline)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_failed_step_does_not_wait_for_the_others():
    started = time.monotonic()
    pipeline, _ = run([(60.0,), (0.0,)], isolated_work.wait_then_fail, 2)
    with pytest.raises(UserError, match="It failed"):
        run_to_end(pipeline)
    assert time.monotonic() - started < 30


def test_the_error_of_a_child_is_raised_as_it_is():
    pipeline, _ = run([("user",)], isolated_work.complain, 2)
    with pytest.raises(UserError, match="It failed"):
        run_to_end(pipeline)
