import math
import random
import threading
from concurrent.futures import CancelledError

import pytest
import torch

from leyden.errors import BadInput, Unreachable
from leyden_trainer.local.sampler import Sampler, SampleRequest

STOP = frozenset({2})


def prompts(count: int, *, shared: int = 0, seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    system = tuple(rng.randrange(3, 500) for _ in range(shared))
    return [system + tuple(rng.randrange(3, 500) for _ in range(rng.randint(1, 30))) for _ in range(count)]


def request(prompt, seed=0, tokens=12, **others) -> SampleRequest:
    return SampleRequest(prompt, max_new_tokens=tokens, seed=seed, **{"stop_ids": STOP, **others})


def results(futures):
    return [future.result(timeout=120) for future in futures]


@torch.no_grad()
def plain_logprobs(model, prompt, token_ids, temperature=1.0):
    """By one ordinary forward pass of transformers over the whole sequence."""
    logits = model(input_ids=torch.tensor([[*prompt, *token_ids]])).logits[0].float() / temperature
    logprobs = torch.log_softmax(logits, -1)
    return [logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(token_ids)]


@pytest.mark.parametrize("shared", [0, 40])
def test_logprobs_of_mixed_lengths_equal_those_of_a_plain_forward_pass(model, sampler, shared):
    requests = [request(prompt, seed=i, tokens=1 + i % 9) for i, prompt in enumerate(prompts(20, shared=shared))]
    for asked, sample in zip(requests, results(sampler.submit(requests)), strict=True):
        expected = plain_logprobs(model, asked.prompt_ids, sample.token_ids)
        assert sample.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_shared_prefix_and_repeated_prompts_are_computed_once(sampler):
    asked = prompts(4, shared=50) * 3
    results(sampler.submit([request(prompt, seed=i) for i, prompt in enumerate(asked)]))
    assert sampler.num_prefilled == 50 + sum(len(prompt) - 50 for prompt in set(asked))


def test_a_conversation_that_goes_on_computes_only_what_is_new(model, sampler):
    (prompt,) = prompts(1, shared=40)
    (first,) = results(sampler.submit([request(prompt)]))
    before = sampler.num_prefilled
    longer = (*prompt, *first.token_ids, 7, 8, 9)
    (second,) = results(sampler.submit([request(longer, seed=1)]))
    assert sampler.num_prefilled - before == 4  # the last sampled token was never read, and three are new
    assert second.logprobs == pytest.approx(plain_logprobs(model, longer, second.token_ids), abs=1e-4)


def test_rows_that_join_a_running_batch_are_exact(model, sampler):
    asked = prompts(6, shared=20)
    late = {}

    def join(token):
        if not late:
            late["futures"] = sampler.submit([request(p, seed=i) for i, p in enumerate(asked[3:])])

    early = sampler.submit([request(asked[0], tokens=60, stop_ids=frozenset(), on_token=join)])
    early += sampler.submit([request(p, seed=9, tokens=30, stop_ids=frozenset()) for p in asked[1:3]])
    samples = results(early) + results(late["futures"])
    for prompt, sample in zip(asked, samples, strict=True):
        assert sample.logprobs == pytest.approx(plain_logprobs(model, prompt, sample.token_ids), abs=1e-4)


def test_a_batch_that_outgrows_its_buffers_is_exact(model, sampler):
    asked = prompts(30, shared=10, seed=3)
    requests = [request(p, i, tokens=10 + 12 * (i % 25), stop_ids=frozenset()) for i, p in enumerate(asked)]
    for prompt, sample in zip(asked, results(sampler.submit(requests)), strict=True):
        assert sample.logprobs == pytest.approx(plain_logprobs(model, prompt, sample.token_ids), abs=2e-4)


def test_a_row_samples_the_same_tokens_alone_and_in_a_batch(sampler):
    asked = [request(prompt, seed=i) for i, prompt in enumerate(prompts(12, shared=10))]
    together = results(sampler.submit(asked))
    alone = [results(sampler.submit([one]))[0] for one in reversed(asked)][::-1]
    assert [sample.token_ids for sample in alone] == [sample.token_ids for sample in together]


def test_other_seeds_sample_other_tokens(sampler):
    (prompt,) = prompts(1)
    samples = results(sampler.submit([request(prompt, seed=seed) for seed in range(8)]))
    assert len({sample.token_ids for sample in samples}) == 8


def test_temperature_zero_takes_the_likeliest_token_and_reports_the_untempered_logprob(model, sampler):
    (prompt,) = prompts(1)
    (sample,) = results(sampler.submit([request(prompt, temperature=0.0)]))
    ids = list(prompt)
    for token in sample.token_ids:
        with torch.no_grad():
            assert token == model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item()
        ids.append(token)
    assert sample.logprobs == pytest.approx(plain_logprobs(model, prompt, sample.token_ids), abs=1e-4)


def test_rows_of_different_temperatures_share_a_batch(model, sampler):
    temperatures = (0.5, 1.0, 2.0)
    asked = [request(prompt, temperature=t) for prompt, t in zip(prompts(3), temperatures, strict=True)]
    for one, sample in zip(asked, results(sampler.submit(asked)), strict=True):
        expected = plain_logprobs(model, one.prompt_ids, sample.token_ids, one.temperature)
        assert sample.logprobs == pytest.approx(expected, abs=1e-4)


def test_top_p_draws_from_the_nucleus_and_reports_its_renormalised_logprobs(model, sampler):
    (prompt,) = prompts(1)
    samples = results(sampler.submit([request(prompt, seed, tokens=1, top_p=0.3) for seed in range(50)]))
    with torch.no_grad():
        probabilities = torch.softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1], -1)
    ordered, order = probabilities.sort(descending=True)
    size = int((ordered.cumsum(0) < 0.3).sum()) + 1
    nucleus = {int(t): math.log(p / ordered[:size].sum()) for t, p in zip(order[:size], ordered[:size], strict=True)}
    assert len(nucleus) > 1
    for sample in samples:
        assert sample.logprobs[0] == pytest.approx(nucleus[sample.token_ids[0]], abs=1e-4)


def test_draws_follow_the_models_probabilities(model, sampler):
    (prompt,) = prompts(1, seed=5)
    count = 4000
    samples = results(sampler.submit([request(prompt, seed, tokens=1) for seed in range(count)]))
    with torch.no_grad():
        expected = torch.softmax(model(input_ids=torch.tensor([prompt])).logits[0, -1].double(), -1)
    drawn = torch.bincount(torch.tensor([s.token_ids[0] for s in samples]), minlength=len(expected))
    # Chi-squared over halves of the vocabulary by probability; 4 standard deviations.
    order = expected.argsort(descending=True)
    share = expected[order].cumsum(0)
    half = order[share < 0.5]
    probability = expected[half].sum().item()
    assert abs(drawn[half].sum().item() - count * probability) < 4 * math.sqrt(count * probability * (1 - probability))


def test_a_stop_id_ends_the_row_and_is_part_of_it(sampler):
    (prompt,) = prompts(1)
    (free,) = results(sampler.submit([request(prompt, tokens=10, stop_ids=frozenset())]))
    (ended,) = results(sampler.submit([request(prompt, tokens=10, stop_ids=frozenset({free.token_ids[3]}))]))
    assert ended.token_ids == free.token_ids[:4]
    assert (free.finish_reason, ended.finish_reason) == ("length", "stop")


def test_a_stop_function_ends_the_row(sampler):
    (prompt,) = prompts(1)
    (sample,) = results(sampler.submit([request(prompt, stop_ids=frozenset(), stops=lambda ids: len(ids) == 5)]))
    assert (len(sample.token_ids), sample.finish_reason) == (5, "stop")


def test_a_cancelled_row_is_dropped_and_the_others_go_on(model, sampler):
    asked = prompts(3)
    reached = threading.Event()
    futures = []

    def count(token):
        if reached.is_set():
            futures[1].cancel()

    futures += sampler.submit(
        [
            request(asked[0], tokens=40, stop_ids=frozenset(), on_token=count),
            request(asked[1], tokens=400, stop_ids=frozenset()),
            request(asked[2], tokens=30, stop_ids=frozenset()),
        ]
    )
    reached.set()
    for index in (0, 2):
        sample = futures[index].result(timeout=120)
        assert sample.logprobs == pytest.approx(plain_logprobs(model, asked[index], sample.token_ids), abs=1e-4)
    with pytest.raises(CancelledError):
        futures[1].result(timeout=120)
    assert sampler.num_sampled < 200


def test_pause_finishes_what_has_begun_and_holds_what_has_not(sampler):
    begun = threading.Event()
    (prompt,) = prompts(1)
    (running,) = sampler.submit([request(prompt, tokens=50, stop_ids=frozenset(), on_token=lambda token: begun.set())])
    assert begun.wait(120)
    sampler.pause()
    assert running.done()
    (held,) = sampler.submit([request(prompt, seed=1)])
    tokens = sampler.num_sampled
    assert not held.done()
    assert sampler.num_sampled == tokens
    sampler.resume(version=1)
    assert (running.result().version, held.result(timeout=120).version) == (0, 1)


def test_after_an_update_nothing_of_the_old_weights_is_used(model, sampler):
    (prompt,) = prompts(1, shared=30)
    results(sampler.submit([request(prompt)]))
    sampler.pause()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    sampler.resume(version=1)
    (sample,) = results(sampler.submit([request(prompt)]))
    assert sample.logprobs == pytest.approx(plain_logprobs(model, prompt, sample.token_ids), abs=1e-4)


def test_more_rows_than_run_at_once_wait_their_turn(model):
    sampler = Sampler(model, context_length=512, max_rows=4)
    try:
        asked = prompts(19)
        samples = results(sampler.submit([request(prompt, seed=i) for i, prompt in enumerate(asked)]))
        for prompt, sample in zip(asked, samples, strict=True):
            assert sample.logprobs == pytest.approx(plain_logprobs(model, prompt, sample.token_ids), abs=1e-4)
    finally:
        sampler.close()


def test_a_sampler_that_may_keep_nothing_is_exact(model):
    sampler = Sampler(model, context_length=512, kept_bytes=0)
    try:
        asked = prompts(5, shared=20)
        samples = results(sampler.submit([request(prompt, seed=i) for i, prompt in enumerate(asked)]))
        for prompt, sample in zip(asked, samples, strict=True):
            assert sample.logprobs == pytest.approx(plain_logprobs(model, prompt, sample.token_ids), abs=1e-4)
    finally:
        sampler.close()


@pytest.mark.parametrize(("prompt", "tokens"), [((), 5), ((3,) * 500, 13), ((3,), 0)])
def test_a_request_that_cannot_fit_is_refused_with_the_numbers(sampler, prompt, tokens):
    with pytest.raises(BadInput, match=f"{len(prompt)} tokens and max_new_tokens = {tokens}.*512"):
        sampler.submit([request(prompt, tokens=tokens)])


def test_the_whole_context_can_be_used(sampler):
    (sample,) = results(sampler.submit([request((3,) * 500, tokens=12, stop_ids=frozenset())]))
    assert len(sample.token_ids) == 12


def test_closing_fails_what_is_unfinished_and_refuses_more(model):
    sampler = Sampler(model, context_length=512)
    begun = threading.Event()
    (future,) = sampler.submit([request((3, 4), tokens=500, stop_ids=frozenset(), on_token=lambda token: begun.set())])
    assert begun.wait(120)
    sampler.close()
    with pytest.raises(Unreachable):
        future.result(timeout=120)
    with pytest.raises(Unreachable):
        sampler.submit([request((3, 4))])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_in_the_model_reaches_every_waiting_request(model):
    sampler = Sampler(model, context_length=512)
    vocabulary_overrun = (10_000,)
    futures = sampler.submit([request(vocabulary_overrun), request((3, 4))])
    for future in futures:
        with pytest.raises(Unreachable, match="index"):
            future.result(timeout=120)
    sampler.close()
