"""`leyden train`: reads the configuration, makes or finds the run's folder, and trains until the end or a signal."""

import asyncio
import importlib.util
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from leyden.errors import BadConfig
from leyden_trainer.config import TrainConfig, load_config
from leyden_trainer.folders import fresh_folder, trained_checkpoint, unfinished_folder

__all__ = ["session_of", "train"]


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The run's TOML file.", show_default=False)],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest unfinished run of this name.")
    ] = False,
    show_verl: Annotated[
        bool, typer.Option("--print-verl-config", help="Print the configuration that verl would get, and end.")
    ] = False,
) -> None:
    """Train the model behind an agent. Any setting may follow as a flag.

    Example: leyden train train.toml --trainer.steps=4 --seed=1
    """
    settings = load_config(config, context.args)
    if show_verl:
        from leyden_trainer.verl.session import print_verl_config

        print_verl_config(settings, settings.output / settings.name, Console(soft_wrap=True))
        return
    folder = unfinished_folder(settings) if resume else fresh_folder(settings)
    console = Console(soft_wrap=True)
    code = asyncio.run(_run(settings, folder, console))
    if code:
        raise typer.Exit(code)
    if checkpoint := trained_checkpoint(folder):
        measure = f"leyden eval {config} --checkpoint base --checkpoint {checkpoint} --tries 4"
        console.print(f"is it better?       {measure}", highlight=False)


def session_of(config: TrainConfig) -> Any:
    """The session of the backend that the configuration names; importing one takes seconds."""
    if config.trainer.backend == "local":
        from leyden_trainer.session import run_training

        return run_training
    if importlib.util.find_spec("verl") is None:
        raise BadConfig('trainer.backend = "verl" needs `pip install leyden-trainer[verl]` in this environment')
    from leyden_trainer.verl.session import run_training as run_verl

    return run_verl


async def _run(config: TrainConfig, folder: Path, console: Console) -> int:
    """Run until the end or a signal; returns the exit status."""
    run_training = session_of(config)

    server_key, judge_key = os.environ.get("LEYDEN_KEY"), os.environ.get("LEYDEN_JUDGE_KEY")
    running = run_training(config, folder, console, server_key=server_key, judge_key=judge_key)
    task = asyncio.ensure_future(running)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        console.print(f"{number.name}: stopping; what was saved stays (a second signal ends at once)")
        task.cancel()
        loop.remove_signal_handler(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        console.print(f"stopped; go on with --resume (the run is in {folder})")
        return 128 + received[0]
    return 0
