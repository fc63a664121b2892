"""`ModelCheckpoint`: Keras's callback, which saves through ckptd while training continues."""

from __future__ import annotations

import time
from typing import Any

import keras

from ckptd.client.paths.environment import given_address
from ckptd.client.paths.latest import Path, as_text
from ckptd.tensorflow.keras_weights import arrays_of_model, begin_to_save, check_options, place_of_files
from ckptd.tensorflow.places import CheckpointPlace
from ckptd.tensorflow.refusals import as_tensorflows
from ckptd.tensorflow.reporting import report


class ModelCheckpoint(keras.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """Saves the model at the end of epochs, or after so many batches, in TensorFlow's format.

    ::

        keep = ckptd.tensorflow.ModelCheckpoint("./run/digits-{epoch:02d}", monitor="val_accuracy", save_best_only=True)
        model.fit(…, callbacks=[keep])
        ckptd.tensorflow.load_weights(model, tf.train.latest_checkpoint("./run"))

    Every argument means what it means in Keras; when to save, and which value is better, Keras itself decides.
    Training continues while a checkpoint is written; the end of training waits for the last one.
    """

    def __init__(
        self,
        filepath: Path,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Any = "epoch",
        initial_value_threshold: float | None = None,
        *,
        address: Path | None = None,
        **options: Any,
    ) -> None:
        """Set up the callback.

        Args:
            filepath: the prefix of the checkpoints, with Keras's placeholders: ``{epoch:02d}``, ``{val_loss:.2f}``, ….
                No suffix is wanted. A path or URL; below an `address`, the run and the name.
            monitor: the value that decides which model is better.
            verbose: 1 has Keras print a line for each save.
            save_best_only: save only when the monitored value is the best so far.
            save_weights_only: weights and optimizer alone; otherwise also what `load_model` builds the model from.
            mode: ``min``, ``max`` or ``auto``.
            save_freq: ``epoch``, or a number of batches.
            initial_value_threshold: the value that the first one has to beat.
            address: a daemon's or a store's; default: the environment's CKPTD_ADDRESS, else none.
            options: of `Checkpointer`, for an address: `rank`, `world_size`, `token`, ….

        Raises:
            ValueError: Keras's own, for its arguments.
            InvalidRequestError: one of `options` is not taken.
        """
        with as_tensorflows():
            check_options(given_address(address), options)
        super().__init__(
            # Keras wants a suffix that says which of its own formats is meant.
            filepath="model.weights.h5" if save_weights_only else "model.keras",
            monitor=monitor,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            mode=mode,
            save_freq=save_freq,
            initial_value_threshold=initial_value_threshold,
        )
        self.filepath = as_text(filepath)
        self._address = address
        self._options = options
        self._place: CheckpointPlace | None = None

    def on_train_end(self, logs: Any = None) -> None:
        """Wait for the last save; raise the error of a save that failed.

        Raises:
            CkptdError: the error of a save.
        """
        super().on_train_end(logs)
        place, self._place = self._place, None
        if place is not None:
            with as_tensorflows():
                try:
                    place.wait()
                finally:
                    place.close()

    def _save_model(self, epoch: int, batch: int | None, logs: Any) -> None:
        """Save, if that is due. Keras's own method, which writes its own formats, is replaced by this one."""
        filepath = self._get_file_path(epoch, batch, logs)
        if not self._should_save_model(epoch, batch, logs, filepath):
            return
        began_at = time.monotonic()
        with as_tensorflows():
            if self._place is None:
                self._place = place_of_files(self._address, self._options)
            arrays = arrays_of_model(self.model, with_model=not self.save_weights_only)
            report(begin_to_save(self._place, filepath, arrays), filepath, began_at)
