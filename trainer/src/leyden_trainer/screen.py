"""The terminal of a run: a progress bar while rollouts run, one line a step, warnings that say what to do."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from leyden_trainer.advice import Advisor, notes
from leyden_trainer.config import TrainerConfig
from leyden_trainer.experience import Batch, Member
from leyden_trainer.folders import trained_checkpoint
from leyden_trainer.summary import StepRecord, Summary

__all__ = ["Screen"]


class Screen:
    """Prints to a rich console; on a terminal the bar is live, in a log there are only lines."""

    def __init__(self, console: Console, trainer: TrainerConfig) -> None:
        self._console = console
        self._steps = trainer.steps
        self._advisor = Advisor(trainer)
        self._last: tuple[Member, ...] = ()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("", total=None)

    def say(self, text: str) -> None:
        """A plain line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that asks for attention."""
        self._console.print(f"[yellow]warning:[/] {text}", highlight=False, soft_wrap=True)

    def begin(self, what: str, total: int) -> None:
        """Show a bar for `total` rollouts or, with 0, for work of unknown length."""
        self._progress.start()
        self._progress.reset(self._bar, description=what, total=total or None)

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._progress.advance(self._bar, count)

    def end(self) -> None:
        """Take the bar away."""
        self._progress.stop()

    def heldout(self, step: int, score: float, incomplete: int) -> None:
        """The line of an evaluation."""
        tail = f", [yellow]{incomplete} incomplete[/]" if incomplete else ""
        self.say(f"  held-out after step {step}: [bold]{score:.3f}[/]{tail}")

    def base(self, score: float) -> None:
        """The line of the evaluation before a warm start."""
        self.say(f"  held-out before the warm start: [bold]{score:.3f}[/]")

    def warm_start(self, losses: Sequence[float], seconds: float) -> None:
        """The line of a warm start; without losses it was found."""
        if not losses:
            self.say("warm start: found from before")
            return
        self.say(f"warm start: {len(losses)} updates, loss {losses[0]:.3f} -> {losses[-1]:.3f}, {seconds:.1f} s")

    def step(self, record: StepRecord, batch: Batch, seconds_left: float) -> None:
        """The line of a step, then what is wrong with it, if anything."""
        self.say(
            f"step {record.step:>3}/{self._steps}  reward {record.reward:.3f}  success {record.success:.2f}  "
            f"entropy {record.entropy:.2f}  kl {record.kl:.4f}  clip {record.clip_fraction:.2f}  "
            f"mismatch {record.mismatch:.1e}  {record.tokens_per_s:.0f} tok/s  {record.seconds:.1f} s  "
            f"left ~{seconds_left / 60:.1f} min"
        )
        if record.importance_mean is not None:
            self.say(f"  importance weights: mean {record.importance_mean:.3f}, {record.importance_capped:.1%} capped")
        if record.explained_variance is not None:
            self.say(f"  critic: loss {record.value_loss:.4f}, explains {record.explained_variance:.2f} of the returns")
        for note in notes(batch):
            self.say(f"  {note}")
        for warning in self._advisor.warnings(record.metrics, batch):
            self.warn(warning)
        self._last = tuple(member for member in batch.members if not member.incomplete)

    def summary(self, summary: Summary, folder: Path) -> None:
        """The table at the end and what to do next."""
        self._console.print(summary.table())
        self.say(f"everything is in {folder}: summary.json, curve.png, metrics.jsonl, tensorboard/, checkpoints/")
        if checkpoint := trained_checkpoint(folder):
            self.say(f"use it:             leyden serve-model {folder} --checkpoint {checkpoint}")
        self.say(f"look at rollouts:   leyden rollouts --store {folder}/store.sqlite")
        if self._last:
            named = {"best": max, "worst": min}
            for name, extreme in named.items():
                member = extreme(self._last, key=lambda member: member.total)
                show = f"leyden show {member.rollout.id} --store {folder}/store.sqlite"
                self.say(f"{f'the last {name}:':<20}{show}  (reward {member.total:.3g})")
