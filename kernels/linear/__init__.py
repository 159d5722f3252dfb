"""A linear map with a bias whose gradient is one pass over memory."""

from ssmbio.kernels.linear.op import linear

__all__ = ["linear"]
