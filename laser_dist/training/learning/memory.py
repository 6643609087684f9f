"""What is told where a step does not fit into memory."""

from laser_dist.errors import UserError


def too_little_memory(
    device: str, stage: str, *, settings_name: str, batch_size: int, replicas: int, got: str
) -> UserError:
    """Names the batch, the device, and what to lower.

    Args:
      device: that lacks memory, and its machine.
      stage: that is trained.
      settings_name: of the stage's settings, as in `--set heads.batch_size=4`.
      batch_size: global.
      replicas: devices that share the batch.
      got: what the device, or who watches over it, said.
    """
    return UserError(
        f"Memory of {device}, stage {stage}",
        f"room for a step of {batch_size} examples, {-(-batch_size // replicas)} on each device",
        got,
        f"Lower {settings_name}.batch_size, spread it over more devices or machines, or set "
        "precision=bfloat16.",
    )
