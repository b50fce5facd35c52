"""The training loop: steps, validation, checkpoints and the log, so that a run can be killed at any moment.

    trainer = Trainer(get_preset("bytes"), "runs/bytes")
    trainer.run()                                   # or, after a crash: Trainer.resume("runs/bytes").run()

A run is a pure function of its `TrainConfig` and the text: the same bits with one thread or several, in one go or
interrupted. For that

- cards compute scales afresh at every use (`refresh_interval=1`): a scale that outlives a step would be one more thing
  that the weights depend on and a checkpoint has to hold, and all recipes but the report's define fresh scales anyway;
- every random draw comes from a generator whose state is in the checkpoint;
- the length of all gradients together, which clipping divides by, is summed in an order of its own
  (`clipping.grad_norm`): a BLAS dot product of long vectors depends on the number of threads;
- a BLAS whose products depend on it, too, is given one thread (`threads.steady_blas`).
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__, kernels
from ..data import TokenStream, batches, check_length, load_stream, split_by_file, split_tail
from ..device import Device
from ..engine import no_grad, optim
from ..errors import UserError
from ..files import user_path
from ..formats import NonFiniteError
from ..models import compile_ahead
from ..models.claude4 import Claude4
from ..progress import Progress
from . import checkpoint, not_finite
from .clipping import clip_grad_norm_
from .config import TrainConfig
from .folder import BEST, KIND, LAST, LOG, FolderInUse, RunFolder, run_id
from .habits import Habits
from .log import RunLog
from .threads import steady_blas
from .trained import TrainedModel, check_shapes, config_of, load_model, vocabulary_array

__all__ = ["BEST", "KIND", "LAST", "LOG", "FolderInUse", "Result", "TrainedModel", "Trainer", "config_of", "load_model",
           "load_split", "validation_windows"]  # fmt: skip

kernels.install()  # the fast twins; autograd.use_twins(False) switches back to the readable definitions


def load_split(config: TrainConfig) -> tuple[TokenStream, TokenStream]:
    """The stream for training and the held-out one; the split is the same for all seeds."""
    stream = load_stream(config.data, tokenizer=config.tokenizer, vocab_size=config.model.vocab_size)
    split = split_by_file if len(stream.files) > 1 else split_tail
    return split(stream, config.held_out)


def validation_windows(stream: TokenStream, config: TrainConfig) -> list[NDArray[np.int64]]:
    """Batches (B, T) of windows spread evenly over the held-out stream: the same at every validation."""
    check_length(stream, config.batch_size, config.seq_len)
    count = config.eval_batches * config.batch_size
    starts = np.linspace(0, len(stream) - config.seq_len, count).astype(np.int64)  # (windows,)
    windows = stream.ids[starts[:, None] + np.arange(config.seq_len)].astype(np.int64)
    return list(windows.reshape(config.eval_batches, config.batch_size, config.seq_len))


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes
    ----------
    step : int
        Steps done.
    train_loss : float
        Mean over the last tenth of the steps (at least one).
    val_loss : float
        At the end, nats a token.
    best_loss, best_step
        Of the best validation.
    seconds : float
        Spent on steps and validation, over all parts of an interrupted run.
    tokens : int
        Seen in training.
    """

    step: int
    train_loss: float
    val_loss: float
    best_loss: float
    best_step: int
    seconds: float
    tokens: int

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON, which knows no NaN and no Inf: None where there is no figure yet."""
        values = dataclasses.asdict(self)
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


class Trainer:
    """One training run in a folder of its own.

    Parameters
    ----------
    config : TrainConfig
    folder : path
        Gets ``last.vbw``, ``best.vbw`` and ``log.jsonl``; made if missing.
    streams : pair of TokenStream, optional
        Training and held-out text, if they are loaded already (see `load_split`).

    Raises
    ------
    UserError
        The folder holds a run already, or the data does not fit the model.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: str | os.PathLike[str],
        streams: tuple[TokenStream, TokenStream] | None = None,
    ) -> None:
        place = RunFolder(folder)
        place.inspect()
        place.refuse_a_run()
        self._set_up(config, place, streams)
        place.set_aside(LOG)  # of a run that was ended before its first checkpoint
        self.log.append(0, run=place.id)

    def _set_up(
        self, config: TrainConfig, place: RunFolder, streams: tuple[TokenStream, TokenStream] | None
    ) -> None:
        steady_blas()
        self.place, self.folder = place, place.path
        self.config = config
        self.train_stream, self.held_out = streams or load_split(config)
        if self.train_stream.vocab_size > config.model.vocab_size:
            raise UserError(
                f"the text has {self.train_stream.vocab_size:,} token ids, and the model's vocabulary "
                f"{config.model.vocab_size:,}; give --vocab-size {self.train_stream.vocab_size}"
            )
        options: dict[str, Any] = {"mode": "auto", "refresh_interval": 1, "seed": config.seed}
        compile_ahead.ahead(config.recipe, config.model, **options)
        self.model = Claude4(config.model, seed=config.seed)
        self.device = Device(config.recipe, **options)
        self.device.place(self.model)
        self.parameters = list(self.model.parameters())
        self.optimizer = optim.AdamW(
            self.parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self.habits = Habits(config.recipe.schedule, self.device, config.steps)
        self.factor = config.factor()
        self.data_rng = np.random.default_rng([config.seed, 1])  # not the stream that the weights were drawn from
        self.batches = batches(self.train_stream, config.batch_size, config.seq_len, self.data_rng)
        self.windows = validation_windows(self.held_out, config)
        self.step = 0
        self.best_loss, self.best_step = math.inf, 0
        self.saved = ""  # what the last checkpoint is worth, in words
        self.seconds = 0.0
        self.swept = place.take()
        self.log = RunLog(self.folder / LOG)

    # -- going on

    @classmethod
    def resume(
        cls,
        folder: str | os.PathLike[str],
        streams: tuple[TokenStream, TokenStream] | None = None,
        **changes: Any,
    ) -> Trainer:
        """Go on from the last whole checkpoint in `folder`.

        Parameters
        ----------
        folder : path
            Of a run, or its ``last.vbw`` or ``best.vbw``. To go on from the best is to go back: the last checkpoint and
            the log as it was get other names (``last-1.vbw``, ``log-1.jsonl``).
        streams : optional
            See `Trainer`.
        **changes
            Fields of the `TrainConfig` to change from here on, such as `steps` or `lr`; without any, the run ends
            with the same bits as if it had never stopped.

        Raises
        ------
        CheckpointError
            There is none, or it is damaged.
        UserError
            The text is no longer the one that the run began with, or the folder holds files of another run.
        """
        path = user_path(folder)
        name = LAST if path.is_dir() or not path.exists() else path.name
        if name not in (LAST, BEST):
            raise UserError(f"{path} is neither a run's folder nor its {LAST} or {BEST}; name one of these")
        place = RunFolder(path if path.name != name else path.parent)
        source = place.file(name)
        config = dataclasses.replace(config_of(source, checkpoint.load_meta(source)), **changes)
        check_shapes(source, config.model, checkpoint.load_shapes(source, "model/"))
        place.inspect(source=name)
        kept = checkpoint.load(source)
        trainer = cls.__new__(cls)
        trainer._set_up(config, place, streams)
        try:
            with checkpoint.understood(source):
                trainer._restore(kept)
            trainer._take_up(name)
        except BaseException:
            trainer.close()
            raise
        return trainer

    @classmethod
    def start_or_resume(
        cls, config: TrainConfig, folder: str | os.PathLike[str], streams: tuple[TokenStream, TokenStream] | None = None
    ) -> Trainer:
        """Resume a run that `folder` holds, else begin it; for runs that may be killed at any time.

        Raises
        ------
        UserError
            The folder holds a run of another configuration.
        """
        path = user_path(folder) / LAST
        if not path.exists():
            return cls(config, folder, streams)
        if config_of(path, checkpoint.load_meta(path)) != config:
            raise UserError(f"{folder} holds a run with other settings; name another folder (--out) or remove it")
        return cls.resume(folder, streams)

    def _restore(self, kept: checkpoint.Checkpoint) -> None:
        meta = kept.meta
        if meta["data"]["sha256"] != self.train_stream.sha256 or meta["data"]["tokens"] != len(self.train_stream):
            raise UserError(
                f"{self.folder} was trained on {meta['data']['name']}, and {self.train_stream.name} is another text "
                "(its SHA-256 differs): resume with the same --data and the same Python, or begin anew"
            )
        self.model.load_state_dict(kept.below("model/"))
        self.optimizer.load_state_dict(checkpoint.unflatten(kept.arrays, meta["optimizer"]))
        self.habits.restore(meta.get("habits"), kept.below("habits/"))
        self._set_random_states(meta["random"])
        self._set_steady_calls(meta["steady_calls"])
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])
        self.best_loss, self.best_step = float(meta["best"]["loss"]), int(meta["best"]["step"])
        self.saved = _worth(self.step, meta.get("validation"))

    def _take_up(self, name: str) -> None:
        """Bring the folder to the state that was restored from its checkpoint `name`."""
        if name == BEST:
            self.place.set_aside(LAST)
            checkpoint.copy(self.folder / BEST, self.folder / LAST)
            if self.log.path.exists():
                checkpoint.copy(self.log.path, self.place.free_name(LOG))
        elif self.best_step == self.step:  # killed, perhaps, after last.vbw was written and before best.vbw was
            self._keep_as_best()
        self.log.resume_after(self.step)
        if not self.log.path.exists():
            self.log.append(0, run=self.place.id)

    # -- states

    def _random_states(self) -> dict[str, Any]:
        return {
            "model": self.model.generator.state_dict(),
            "device": self.device.generator.state_dict(),
            "data": self.data_rng.bit_generator.state,
        }

    def _set_random_states(self, states: dict[str, Any]) -> None:
        self.model.generator.load_state_dict(states["model"])
        self.device.generator.load_state_dict(states["device"])
        self.data_rng.bit_generator.state = states["data"]

    def _steady_calls(self) -> dict[str, int]:
        """What attentions without a mask have counted."""
        modules = self.model.named_modules()
        return {name: module.steady_calls for name, module in modules if hasattr(module, "steady_calls")}

    def _set_steady_calls(self, calls: dict[str, int]) -> None:
        for name, module in self.model.named_modules():
            if name in calls:
                module.steady_calls = calls[name]

    def save(self, validation: float | None = None) -> None:
        """Write ``last.vbw``, whole or not at all; `validation` is the validation loss of these weights, if known.

        Raises
        ------
        CheckpointError
            It could not be written; the one before is untouched.
        NonFiniteTraining
            A weight is not finite; the one before is untouched.
        """
        broken = not_finite.broken_parameter(self.model)
        if broken:
            raise self._stopped("its weights are not finite", broken)
        arrays = {f"model/{name}": array for name, array in self.model.state_dict().items()}
        moments, optimizer = checkpoint.flatten("optimizer", self.optimizer.state_dict())
        arrays |= moments | vocabulary_array(self.train_stream) | self.habits.arrays()
        stream = self.train_stream
        meta = {
            "kind": KIND,
            "run": self.place.id,
            "vbw_np": __version__,
            "config": self.config.as_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": {"loss": str(self.best_loss), "step": self.best_step},
            "validation": validation,
            "optimizer": optimizer,
            "random": self._random_states(),
            "habits": self.habits.state(),
            "steady_calls": self._steady_calls(),
            "data": {"name": stream.name, "sha256": stream.sha256, "tokens": len(stream),
                     "tokenizer": stream.tokenizer, "vocab_size": stream.vocab_size},
        }  # fmt: skip
        self.log.flush()  # first the log, so that it never lacks a step that the checkpoint has
        checkpoint.save(self.folder / LAST, arrays, meta)
        self.saved = _worth(self.step, validation)

    def _keep_as_best(self) -> None:
        """Copy the present ``last.vbw`` to ``best.vbw``."""
        try:
            ours = run_id(checkpoint.load_meta(self.folder / BEST), self.folder / BEST) == self.place.id
        except checkpoint.CheckpointError:
            ours = False
        if not ours:
            self.place.set_aside(BEST)
        checkpoint.copy(self.folder / LAST, self.folder / BEST)

    # -- running

    def run(
        self,
        *,
        stop: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] | None = None,
        progress: bool | None = None,
    ) -> Result:
        """Train to the last step.

        Parameters
        ----------
        stop : callable
            Asked after every step; when it says yes, the state is saved and the run ends there.
        tell : callable, optional
            Told of each validation, in words.
        progress : bool, optional
            Show a progress line; by default on a terminal only.

        Raises
        ------
        NonFiniteTraining
            A loss or gradient was not finite.
        """
        config, left = self.config, self.config.steps - self.step
        if self.step == 0:
            self.log.resume_after(0)
        with Progress(left, f"training {config.recipe.name}", items_per_step=config.tokens_per_step,
                      enabled=progress) as shown:  # fmt: skip
            note = ""
            while self.step < config.steps:
                started = time.perf_counter()
                loss, norm = self.train_step()
                self.seconds += time.perf_counter() - started
                self.log.append(self.step, loss=loss, lr=self.optimizer.lr, grad_norm=norm,
                                seconds=round(self.seconds, 3), **self.habits.seen)  # fmt: skip
                shown.step(f"loss {loss:.3f}{note}")
                ended = self.step == config.steps
                wants_stop = not ended and stop()
                if ended or self.step % config.eval_every == 0:
                    note = self._validate(loss, tell)
                elif wants_stop or (config.save_every and self.step % config.save_every == 0):
                    self.save()
                if wants_stop:
                    break
        return self.result()

    def _validate(self, loss: float, tell: Callable[[str], None] | None) -> str:
        """Validate, log, save; a note for the progress line."""
        started = time.perf_counter()
        value = self.validation_loss()
        self.seconds += time.perf_counter() - started
        if not math.isfinite(value):
            raise self._stopped(f"the validation loss is {value}", "not looked for in validation")
        improved = value < self.best_loss
        if improved:
            self.best_loss, self.best_step = value, self.step
        self.log.append(self.step, val_loss=value, seconds=round(self.seconds, 3))
        self.save(validation=value)
        if improved:
            self._keep_as_best()
        if tell is not None:
            rate = self.step * self.config.tokens_per_step / max(self.seconds, 1e-9)
            tell(f"step {self.step:,}/{self.config.steps:,}  loss {loss:.4f}  validation {value:.4f}"
                 f"{' (best)' if improved else ''}  {rate:,.0f} tokens/s")  # fmt: skip
        return f"  validation {value:.3f}"

    def train_step(self) -> tuple[float, float]:
        """One optimizer step on the next batches; the loss before it, and the gradients' length before clipping."""
        self.habits.before_step(self.step)
        before = self._random_states()
        drawn = [next(self.batches) for _ in range(self.config.accumulate)]
        self.optimizer.lr = self.config.lr * self.factor(self.step)
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # judged below, and in words
                loss = self._gradients(drawn)
                if self.habits.wants_exact(self.step):
                    self._compare_with_exact(drawn, before)
                norm = math.nan
                if math.isfinite(loss):
                    norm = clip_grad_norm_(self.parameters, self.config.clip or math.inf)
        except NonFiniteError:  # the device refuses to quantize NaN and Inf
            loss = norm = math.nan
        if not not_finite.is_finite(loss, norm):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.4f}, its gradient is not"
            self._set_random_states(before)
            self.step += 1
            raise self._stopped(what, not_finite.first_offender(self.model, lambda: self._gradients(drawn)))
        with np.errstate(over="ignore", invalid="ignore"):  # a weight that overflows is found before it is written
            self.optimizer.step()
        self.step += 1
        self.habits.after_step()
        return loss, norm

    def _compare_with_exact(self, drawn: list[NDArray[np.int64]], before: dict[str, Any]) -> None:
        """The same gradients once more in float32, from the same random states; the parameters keep those of before."""
        after, ours, calls = self._random_states(), [p.grad for p in self.parameters], self._steady_calls()
        for p in self.parameters:
            p.grad = None
        self._set_random_states(before)
        with self.habits.in_float32():
            self._gradients(drawn)
        self.habits.note_error(ours, [p.grad for p in self.parameters])
        for p, grad in zip(self.parameters, ours, strict=True):
            p.grad = grad
        self._set_random_states(after)
        self._set_steady_calls(calls)

    def _gradients(self, drawn: list[NDArray[np.int64]]) -> float:
        """Gradients of the mean loss over the batches, in the parameters; the mean loss."""
        return optim.mean_gradients(self.optimizer, self.model.loss, drawn).loss

    def _stopped(self, what: str, offender: str) -> not_finite.NonFiniteTraining:
        config = self.config
        self.log.append(self.step, error=what, offender=offender)
        return not_finite.NonFiniteTraining(
            not_finite.report(
                self.step, what, offender, self.optimizer.lr, config.clip, config.recipe.name, self._way_back()
            )
        )

    def _way_back(self) -> str:
        """Which checkpoints there are, what they are worth, and how to go on from them."""
        if not self.saved:
            return "No checkpoint was written yet."
        last = f"{LAST} is of {self.saved}"
        if self.saved.endswith("validated"):
            best = self.folder / BEST
            back = f"{best} (step {self.best_step})" if best.exists() else "an earlier run"
            return f"{last}, so it may be ruined already: go back to {back}: vbw train --resume {best}"
        return f"{last}: vbw train --resume {self.folder}"

    def validation_loss(self) -> float:
        """Mean cross-entropy, nats a token, over the fixed windows of the held-out text; dropout off."""
        with no_grad(), self.model.evaluating(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            try:
                return float(np.mean([self.model.loss(ids).item() for ids in self.windows]))
            except NonFiniteError:  # a card refuses what is not finite
                return math.nan

    def result(self) -> Result:
        """What the log says up to now."""
        entries = self.log.read()
        losses = [float(entry["loss"]) for entry in entries if "loss" in entry]
        values = [float(entry["val_loss"]) for entry in entries if "val_loss" in entry]
        last = losses[-max(len(losses) // 10, 1) :]
        return Result(
            step=self.step,
            train_loss=float(np.mean(last)) if last else math.nan,
            val_loss=values[-1] if values else math.nan,
            best_loss=self.best_loss,
            best_step=self.best_step,
            seconds=self.seconds,
            tokens=self.step * self.config.tokens_per_step,
        )

    def close(self) -> None:
        """Take the weights off the cards and let go of the folder."""
        self.device.release()
        self.place.release()


def _worth(step: int, validation: float | None) -> str:
    """What a checkpoint is worth: its step, and whether its weights were validated."""
    return f"step {step:,}, " + ("not validated" if validation is None else f"validation loss {validation:.4f}")
