"""Retouch's Python client: `with Client() as retouch: job = retouch.submit("mug.png", prompt="on a marble table")`."""

from retouch.batches import Batches
from retouch.client import Client
from retouch.errors import (
    BadAnswer,
    Damaged,
    FieldProblem,
    NoOutput,
    NotConfigured,
    ProblemError,
    RetouchError,
    Unreachable,
    WaitTimeout,
)
from retouch.records import FINAL, Attempt, Batch, Counts, Input, Job, JobError, Model, ModelLimits, Output
from retouch.transport import Patience

__all__ = [
    "FINAL",
    "Attempt",
    "BadAnswer",
    "Batch",
    "Batches",
    "Client",
    "Counts",
    "Damaged",
    "FieldProblem",
    "Input",
    "Job",
    "JobError",
    "Model",
    "ModelLimits",
    "NoOutput",
    "NotConfigured",
    "Output",
    "Patience",
    "ProblemError",
    "RetouchError",
    "Unreachable",
    "WaitTimeout",
]
