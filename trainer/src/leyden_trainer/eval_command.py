"""`leyden eval`: finds the checkpoints, runs the evaluation, and writes it as JSON, Markdown and a table."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.markdown import Markdown

from leyden.errors import BadInput
from leyden.tasks import read_tasks
from leyden_trainer.config import TrainConfig, load_config
from leyden_trainer.evaluation import Evaluation, Tries
from leyden_trainer.evaluation_report import Report
from leyden_trainer.folders import checkpoint_folder, fresh_folder, offered_checkpoint
from leyden_trainer.screen import Screen

__all__ = ["evaluate_command"]


def evaluate_command(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The run's TOML file.", show_default=False)],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="base (the model that training starts from), best or last (of the newest run of this name), or a "
            "folder; given twice, the second is compared with the first. Default: best, or last of a run without."
        ),
    ] = None,
    tasks: Annotated[Path | None, typer.Option(help="A task file; default: the held-out tasks.")] = None,
    tries: Annotated[int, typer.Option(min=1, help="Rollouts of each task.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Default: greedy for one try, sampling.temperature for more.")
    ] = None,
    k: Annotated[list[int] | None, typer.Option(help="Report pass@k; may be repeated. Default: 1 and --tries.")] = None,
    success: Annotated[float, typer.Option(help="A reward of at least this is a success.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Evaluate checkpoints on tasks. Any setting may follow as a flag: --agent.concurrency=8

    Example: leyden eval train.toml --checkpoint base --checkpoint best --tries 4
    """
    settings = load_config(config, context.args)
    names = checkpoint or [offered_checkpoint(settings)]
    if len(set(names)) != len(names):
        raise BadInput(f"--checkpoint {names[0]} is given twice; name different ones")
    wanted = sorted(set(k or [1, tries]))
    if not 1 <= wanted[0] <= wanted[-1] <= tries:
        raise BadInput(f"--k {wanted} needs k from 1 to --tries {tries}")
    file = tasks or settings.tasks.heldout
    values = read_tasks(file)
    folders = {name: checkpoint_folder(settings, name) for name in names}
    console = Console(soft_wrap=True, stderr=as_json)
    heat = temperature if temperature is not None else settings.sampling.temperature if tries > 1 else 0.0
    folder = fresh_folder(settings, suffix="-eval")
    how = Tries(tries, heat, success)
    found = asyncio.run(_run(settings, folders, values, how, folder, console))
    report = Report(file, heat, wanted, found)
    record, text = json.dumps(report.record(), indent=2), report.markdown()
    (folder / "evaluation.json").write_text(record + "\n", encoding="utf-8")
    (folder / "evaluation.md").write_text(text, encoding="utf-8")
    if as_json:
        print(record)
        return
    console.print(Markdown(text))
    console.print(f"everything is in {folder}: evaluation.json, evaluation.md, store.sqlite", highlight=False)


async def _run(
    config: TrainConfig,
    folders: Mapping[str, Path],
    tasks: Sequence[JsonValue],
    how: Tries,
    output: Path,
    console: Console,
) -> list[Evaluation]:
    from leyden_trainer.evaluating import Checkpoint, evaluate

    checkpoints = [Checkpoint(name, folder) for name, folder in folders.items()]
    screen = Screen(console, config.trainer)

    def progress(checkpoint: Checkpoint, count: int) -> None:
        if count:
            screen.advance(count)
            return
        screen.end()
        screen.say(f"{checkpoint.name}: {len(tasks)} tasks x {how.count}, temperature {how.temperature:g}")
        screen.begin(checkpoint.name, len(tasks) * how.count)

    try:
        return await evaluate(
            config, checkpoints, tasks, how, output, server_key=os.environ.get("LEYDEN_KEY"), progress=progress
        )
    finally:
        screen.end()
