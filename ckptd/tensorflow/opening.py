"""Where the checkpoints of one Saver go: the arguments that say so, checked, and the place that they open."""

from __future__ import annotations

from dataclasses import dataclass

from ckptd.client.saver.saver_directory import SaverDirectory
from ckptd.engine.clock import Clock
from ckptd.errors import InvalidRequestError
from ckptd.tensorflow.places import BelowAnAddress, BesideThePath, CheckpointPlace


@dataclass(frozen=True, kw_only=True)
class Destination:
    """What a Saver adds to the arguments of TensorFlow's; see `Saver` for each.

    Attributes:
        address: of a daemon or a store; empty if files are beside the paths.

    Raises:
        InvalidRequestError: for several ranks without an address.
    """

    address: str
    rank: int
    world_size: int
    timeout_s: float
    token: str | None
    ca: str | bytes | None
    cert: str | bytes | None
    key: str | bytes | None
    clock: Clock

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.address and (self.rank, self.world_size) != (0, 1):
            raise InvalidRequestError(
                "several ranks save one checkpoint through a daemon only: give its address",
                expected="rank 0 of 1",
                actual=f"rank {self.rank} of {self.world_size}",
            )

    def open(
        self, max_to_keep: int, keep_every_n_hours: float, *, pad_step_number: bool, save_relative_paths: bool
    ) -> CheckpointPlace:
        """Return the place. The hours count from now; a run below an address is joined when it is first used."""
        if not self.address:
            directory = SaverDirectory(
                max_to_keep, keep_every_n_hours, self.clock, save_relative_paths=save_relative_paths
            )
            return BesideThePath(directory, self.timeout_s)
        options = {
            "max_to_keep": max_to_keep,
            "keep_checkpoint_every_n_hours": keep_every_n_hours,
            "rank": self.rank,
            "world_size": self.world_size,
            "timeout_s": self.timeout_s,
            "token": self.token,
            "ca": self.ca,
            "cert": self.cert,
            "key": self.key,
            "pad_step_number": pad_step_number,
            "save_relative_paths": save_relative_paths,
        }
        return BelowAnAddress(self.address, options)
