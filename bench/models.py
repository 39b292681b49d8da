"""The former home of what torch workloads share: now `bench.plugins.workload`."""

from bench import former

__getattr__ = former.names(
    __name__,
    {
        "bench.plugins.workload": (
            *("BATCHES", "InferenceJob", "SeededData", "TrainingJob", "adamw_learning_rate"),
            *("autocast", "build_model", "checkpoint_layers", "cross_entropy", "executed"),
            *("gradient_norm", "initial_std", "make_optimizer", "model_facts"),
            *("parameter_count", "place", "with_cache"),
        ),
    },
)
