"""What a workload is made of: one constant `WORKLOAD`, an entry point of `accelmark.workloads`.

A `Workload` names its modes, counts the work of a step from shapes and builds a `Job`.
`SeededData`, `TrainingJob`, `InferenceJob` and what goes with them is what every torch workload of
ours shares. Importing this loads no torch.
"""

from bench.precision import PRECISIONS, Precision
from bench.records.outcome import Work
from bench.serving_job import Rows, ServingJob
from bench.workload import (
    ALL_EXECUTIONS,
    DECODE_EXECUTIONS,
    EXECUTIONS,
    INFERENCE_PRECISIONS,
    QUANTIZED_PRECISIONS,
    TRAINING_PRECISIONS,
    Job,
    Later,
    Look,
    Mode,
    OneOf,
    Parameters,
    Recorder,
    Site,
    Training,
    Unsupported,
    Within,
    Workload,
    require_one_of,
    require_within,
    twin_name,
    with_twins,
)
from bench.workloads.jobs.executed import executed
from bench.workloads.jobs.gradients import gradient_norm
from bench.workloads.jobs.jobs import (
    BATCHES,
    InferenceJob,
    TrainingJob,
    adamw_learning_rate,
    autocast,
    cross_entropy,
    model_facts,
)
from bench.workloads.jobs.modes import train_and_infer
from bench.workloads.jobs.optimizers import make_optimizer
from bench.workloads.jobs.recorded import replayed
from bench.workloads.jobs.seeded import SeededData, build_model, initial_std, parameter_count, place
from bench.workloads.layers.transformers import checkpoint_layers, with_cache

__all__ = [
    "ALL_EXECUTIONS",
    "BATCHES",
    "DECODE_EXECUTIONS",
    "EXECUTIONS",
    "INFERENCE_PRECISIONS",
    "PRECISIONS",
    "QUANTIZED_PRECISIONS",
    "TRAINING_PRECISIONS",
    "InferenceJob",
    "Job",
    "Later",
    "Look",
    "Mode",
    "OneOf",
    "Parameters",
    "Precision",
    "Recorder",
    "Rows",
    "SeededData",
    "ServingJob",
    "Site",
    "Training",
    "TrainingJob",
    "Unsupported",
    "Within",
    "Work",
    "Workload",
    "adamw_learning_rate",
    "autocast",
    "build_model",
    "checkpoint_layers",
    "cross_entropy",
    "executed",
    "gradient_norm",
    "initial_std",
    "make_optimizer",
    "model_facts",
    "parameter_count",
    "place",
    "replayed",
    "require_one_of",
    "require_within",
    "train_and_infer",
    "twin_name",
    "with_cache",
    "with_twins",
]
