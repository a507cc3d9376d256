"""`leyden serve-model`: a trained checkpoint behind an OpenAI-compatible endpoint, for the same unedited agent."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from leyden_trainer.folders import model_within

if TYPE_CHECKING:  # torch takes seconds to import, and --help should not
    from leyden_trainer.local.serving import ServingOptions

__all__ = ["serve_model"]


def serve_model(
    run: Annotated[Path, typer.Argument(help="A run's folder, or one that transformers loads.", show_default=False)],
    checkpoint: Annotated[
        str | None, typer.Option(help="Which checkpoint of a run: best or last. Default: best, or last without a best.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other than loopback only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 lets the system choose.")] = 4800,
    device: Annotated[str, typer.Option(help="cpu, mps, cuda, or auto.")] = "auto",
    context_length: Annotated[int, typer.Option(min=16, help="Longest prompt and answer together.")] = 2048,
    concurrency: Annotated[int, typer.Option(min=1, help="Answers that are sampled at once.")] = 32,
) -> None:
    """Serve a trained model until stopped. The key is $LEYDEN_MODEL_KEY; without one, any key opens it.

    The agent needs two environment variables and no edit: OPENAI_BASE_URL and OPENAI_API_KEY. Whatever model it names
    is answered by this one.

    Example: leyden serve-model runs/calculator
    """
    from leyden_trainer.local.serving import ServingOptions

    folder = _model_folder(run, checkpoint)
    key = os.environ.get("LEYDEN_MODEL_KEY") or None
    options = ServingOptions(device, context_length, concurrency, host, port, key)
    asyncio.run(_serve(folder, options, Console(soft_wrap=True)))


def _model_folder(run: Path, checkpoint: str | None) -> Path:
    """The checkpoint within a run's folder; a folder with a model in it stands for itself.

    Raises:
        BadConfig: there is neither.
    """
    checkpoints = run / "checkpoints"
    return model_within(checkpoints / checkpoint if checkpoint and checkpoints.is_dir() else run)


async def _serve(folder: Path, options: "ServingOptions", console: Console) -> None:
    from leyden_trainer.local.serving import ServedModel

    model = await asyncio.to_thread(ServedModel.load, folder, options)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with model.serving():
        console.print(f"leyden: serving {folder} on {model.server.url}", highlight=False)
        key = "$LEYDEN_MODEL_KEY" if options.key else "any"
        console.print(f"export OPENAI_BASE_URL={model.server.url} OPENAI_API_KEY={key}", highlight=False)
        await stopped.wait()
