"""A fake of the Dataflow API: it accepts a job, runs it in a process, and reports its state."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloud import Answering, serving

WORKER = Path(__file__).with_name("dataflow_worker.py")
JOB_ID = "2026-01-01_job"
_JOBS = "/v1b3/projects/p/locations/r/jobs"


class Dataflow:
    """Runs what it is sent.

    Attributes:
      port: it listens at, on loopback.
      jobs: as they were sent.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.port = 0
        self.jobs: list[dict[str, Any]] = []
        self._environment = {**os.environ, **environment}
        self._failure: str | None = None
        self._worker: subprocess.Popen[str] | None = None

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        """Takes a job."""
        self.jobs.append(job)
        options = job["environment"]["sdkPipelineOptions"]["options"]
        self._worker = subprocess.Popen(
            [sys.executable, str(WORKER), options["pipelineUrl"]],
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        return {"id": JOB_ID, "name": job["name"], "clientRequestId": job["clientRequestId"]}

    def get(self) -> dict[str, Any]:
        """Wait until the job is done, and return its state."""
        if self._worker is not None:
            _, log = self._worker.communicate(timeout=300)
            self._failure = log if self._worker.returncode else None
            self._worker = None
        state = "JOB_STATE_DONE" if self._failure is None else "JOB_STATE_FAILED"
        return {"id": JOB_ID, "name": self.jobs[-1]["name"], "currentState": state}

    def messages(self) -> dict[str, Any]:
        """What the job's log says."""
        if self._failure is None:
            return {}
        error = {
            "id": "1",
            "time": "2026-01-01T00:00:00Z",
            "messageText": self._failure,
            "messageImportance": "JOB_MESSAGE_ERROR",
        }
        return {"jobMessages": [error]}


@contextmanager
def stand_in(environment: Mapping[str, str]) -> Iterator[Dataflow]:
    """Serves project p, region r.

    Args:
      environment: of the process that runs a job.
    """
    dataflow = Dataflow(environment)

    class Handler(Answering):
        def do_POST(self) -> None:
            job = json.loads(self.body())
            if self._is(""):
                self.answer(dataflow.create(job))
            else:
                self.answer({}, status=404)

        def do_GET(self) -> None:
            if self._is(f"/{JOB_ID}"):
                self.answer(dataflow.get())
            elif self._is(f"/{JOB_ID}/messages"):
                self.answer(dataflow.messages())
            else:
                self.answer({}, status=404)

        def _is(self, below: str) -> bool:
            return self.path.partition("?")[0] == _JOBS + below

    with serving(Handler) as port:
        dataflow.port = port
        yield dataflow
