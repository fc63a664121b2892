"""The contenders of peers.py, in the order of its tables."""

from __future__ import annotations

from contenders.adapters import CkptdDcp, CkptdJax, CkptdTensorFlow, CkptdTorch, TensorFlowAsync
from contenders.bare import MemoryCopy, RawDirect
from contenders.base import Contender
from contenders.orbax_async import OrbaxAsync
from contenders.ours import Ckptd, CkptdStaging, CkptdStream
from contenders.safetensors_files import Safetensors
from contenders.tensorflow_saver import TensorFlow
from contenders.torch_dcp import TorchDcp, TorchDcpAsync

ALL: dict[str, type[Contender]] = {
    each.name: each
    for each in (
        MemoryCopy,
        RawDirect,
        Safetensors,
        TensorFlow,
        TorchDcp,
        TorchDcpAsync,
        OrbaxAsync,
        CkptdStream,
        Ckptd,
        CkptdStaging,
    )
}

FRAMEWORKS: dict[str, type[Contender]] = {
    each.name: each
    for each in (TorchDcpAsync, CkptdDcp, CkptdTorch, OrbaxAsync, CkptdJax, TensorFlowAsync, CkptdTensorFlow)
}
"""Each framework's own asynchronous save, followed by ckptd's adapters for it."""

EVERYONE = ALL | FRAMEWORKS
