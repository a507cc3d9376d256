"""One run: model, policy server, Leyden server, runner and loop, started in order and ended in reverse."""

import asyncio
import contextlib
from pathlib import Path

from rich.console import Console

from leyden.client import HttpStore
from leyden.tasks import read_tasks
from leyden.types import Run
from leyden_trainer.assignment import configured_method
from leyden_trainer.children import opened_server, started_runner
from leyden_trainer.config import TrainConfig
from leyden_trainer.demonstrations import read_demonstrations
from leyden_trainer.experience import take_over
from leyden_trainer.folders import CACHE
from leyden_trainer.journal import Journal
from leyden_trainer.judge import Judge
from leyden_trainer.local.backend import LocalBackend
from leyden_trainer.loop import Loop, RunState
from leyden_trainer.rewarding import Rewarding
from leyden_trainer.rules import load_rules
from leyden_trainer.screen import Screen
from leyden_trainer.summary import Summary, draw_curve, write_summary
from leyden_trainer.tasks import check_apart

__all__ = ["run_training"]


async def run_training(
    config: TrainConfig, folder: Path, console: Console, *, server_key: str | None, judge_key: str | None
) -> Summary:
    """Train as `config` says, in `folder`; a folder with a saved state is resumed.

    Args:
        server_key: opens `config.server`.
        judge_key: opens `config.reward.judge`.

    Raises:
        LeydenError: bad input is refused before anything is started; see also `Loop.run`.
    """
    train_tasks, heldout_tasks = read_tasks(config.tasks.train), read_tasks(config.tasks.heldout)
    check_apart(train_tasks, heldout_tasks)
    warm = config.warm_start
    demonstrations = read_demonstrations(warm.demonstrations) if warm else []
    method = configured_method(config)
    rules = load_rules(config.reward.rules)
    asked = config.reward.judge
    judge = Judge(asked, cache=config.output / "judge-cache", key=judge_key) if asked else None
    screen = Screen(console, config.trainer)
    screen.say(f"run {folder.name}: loading {config.model.path}")
    backend = await asyncio.to_thread(LocalBackend.prepare, config, folder, cache=CACHE, heads=method.heads)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(backend.serving())
        server = await stack.enter_async_context(opened_server(config, folder, server_key))
        screen.say(f"watch it at {server.dashboard}")
        store = HttpStore(server.url, server.key)
        stack.push_async_callback(store.close)
        await store.check()
        state = RunState(**backend.resumed) if backend.resumed else RunState()
        journal = stack.enter_context(Journal(folder, from_step=state.step))
        await store.begin(
            Run(name=folder.name, config=config.model_dump(mode="json"), tokenizer=backend.tokenizer_file()),
            after_step=state.step,
        )
        died = None
        if not config.server:
            await take_over(store, folder.name)
        if config.agent.runners:
            died = await stack.enter_async_context(started_runner(config, server, folder))
        if state.step:
            screen.say(f"resumed after step {state.step}")
        loop = Loop(
            config=config,
            folder=folder,
            store=store,
            backend=backend,
            method=method,
            rewarding=Rewarding(store, rules, judge),
            train_tasks=train_tasks,
            heldout_tasks=heldout_tasks,
            demonstrations=demonstrations,
            state=state,
            journal=journal,
            screen=screen,
            runner_died=died,
        )
        summary = await loop.run()
    await backend.save_checkpoint("last")
    _conclude(loop, summary)
    return summary


def _conclude(loop: Loop, summary: Summary) -> None:
    """Leave the curve and the summary in the run's folder: with the latter the run is at its end."""
    folder, state = loop.folder, loop.state
    title = f"{folder.name}: {loop.config.model.path}"
    draw_curve(folder / "curve.png", title, state.rewards, state.heldout, state.base)
    write_summary(folder / "summary.json", summary)
    loop.screen.summary(summary, folder)
