"""Weights that FSDP2 keeps in shards: made whole, or filled.

A sharded module gathers its weights for its own forward pass. What reads a weight elsewhere (the
head by pieces, the embeddings as classes, a checkpoint) has to gather it here. Both functions are
called by all processes or by none.
"""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gather(tensor: Tensor) -> Tensor:
    """The whole of a tensor, with its gradient; itself if it is not in shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(parameter: Tensor, values: Tensor) -> None:
    """Copy values, the same on every process, into a parameter or its shards."""
    if isinstance(parameter, DTensor):
        values = values.to(parameter.device, parameter.dtype)
        values = distribute_tensor(values, parameter.device_mesh, parameter.placements)
    parameter.copy_(values)
