"""From settings to what a run is asked to do: pure.

Knows settings, the record's model and the contract; reads no file and asks no provider.
"""

import json
from collections.abc import Sequence
from typing import Any

from job.contract.manifest import EvaluationPlan, SamplePrompt, Timing
from job.contract.recipe import TrainerName
from launcher.errors import UsageError
from launcher.model import Budget, Clocks, InputFile, RunSpec
from launcher.settings.model import Provider, Settings

LAG_SECONDS = {Provider.PROCESS: 1.0, Provider.DOCKER: 45.0}
"""How long what was asked for on this machine may not show: a process is there at once, a container that its
engine makes after our patience with its answer has ended is not.
"""
LOCAL_LEAK_SECONDS = 60.0


def create_lag_seconds(settings: Settings) -> float:
    """Return how long a pod of the configured provider may not show everywhere after it was asked for."""
    return LAG_SECONDS.get(settings.run.provider, settings.clocks.create_lag)


def run_spec(
    settings: Settings,
    inputs: Sequence[InputFile],
    evaluation: EvaluationPlan | None,
    *,
    place: str,
    images: int = 0,
) -> RunSpec:
    """Return what a run of these settings is asked to do; `place` is the provider's, `images` the data's."""
    provider = settings.run.provider
    budget, clocks = settings.budget, settings.clocks
    reserve = budget.teardown_reserve_minutes * 60
    return RunSpec(
        output_name=settings.recipe.output_name,
        namespace=settings.run.namespace,
        provider=provider.value,
        place=place,
        trainer=TrainerName.DIFFUSERS,
        recipe=settings.recipe,
        inputs=tuple(inputs),
        evaluation=evaluation,
        budget=Budget(
            cap_dollars=budget.cap_dollars,
            max_seconds=budget.max_hours * 3600,
            reserve_seconds=reserve,
            price_ceiling=budget.price_ceiling,
        ),
        clocks=Clocks(
            provision_seconds=clocks.provision,
            boot_seconds=clocks.boot,
            boot_hard_seconds=clocks.boot_hard,
            capacity_seconds=clocks.capacity,
            silence_seconds=clocks.silence,
            poll_seconds=clocks.poll,
            lease_seconds=clocks.lease,
            create_lag_seconds=create_lag_seconds(settings),
            leak_seconds=LOCAL_LEAK_SECONDS if provider is Provider.PROCESS else reserve,
        ),
        timing=Timing(
            heartbeat_seconds=clocks.heartbeat,
            progress_seconds=clocks.progress,
            step_stall_seconds=clocks.step_stall,
            grace_seconds=clocks.grace,
            state_every_seconds=clocks.state_every,
        ),
        images=images,
        paid=provider is Provider.RUNPOD,
        cheapest=settings.runpod.cheapest,
        image=settings.pod.image,
        disk_gb=settings.pod.disk_gb,
    )


def evaluation_plan(settings: Settings, prompts: Sequence[SamplePrompt]) -> EvaluationPlan | None:
    """Return what to draw for every epoch, None where nothing is to be drawn."""
    wanted = settings.evaluation
    if not wanted.enabled or not prompts:
        return None
    return EvaluationPlan(
        prompts=tuple(spread(prompts, wanted.prompts)),
        inference_steps=wanted.inference_steps,
        guidance_scale=wanted.guidance_scale,
        batch_size=wanted.batch_size,
        measure_start=wanted.measure_start,
    )


def prompts_of_ruler(data: bytes, *, seed: int) -> tuple[SamplePrompt, ...]:
    """Return the prompts that a ruler file brings along, each with a seed of its own.

    Raises UsageError when the file has none.
    """
    try:
        listed: list[dict[str, Any]] = json.loads(data)["prompts"]
        return tuple(
            SamplePrompt(
                name=f"{index:03d}", prompt=item["prompt"], seed=seed + index, asked=item.get("asked", {})
            )
            for index, item in enumerate(listed)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError("the ruler file has no list of prompts", next_step="make it again") from error


def prompts_of_captions(captions: Sequence[str], *, seed: int) -> tuple[SamplePrompt, ...]:
    """Return prompts for data that no ruler measures: its own captions, each once, in a fixed order."""
    distinct = sorted(set(captions))
    return tuple(
        SamplePrompt(name=f"{index:03d}", prompt=caption, seed=seed + index)
        for index, caption in enumerate(distinct)
    )


def spread(prompts: Sequence[SamplePrompt], count: int) -> list[SamplePrompt]:
    """Return at most `count` prompts, evenly spread over the list."""
    if len(prompts) <= count:
        return list(prompts)
    return [prompts[index * len(prompts) // count] for index in range(count)]
