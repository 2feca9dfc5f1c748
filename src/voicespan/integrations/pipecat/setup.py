"""The file that Pipecat loads by PIPECAT_SETUP_FILES."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.workers.runner import WorkerRunner


async def setup_pipeline_worker(worker: PipelineWorker) -> None:
    """Let the turns of this pipeline be told."""
    from voicespan import hooked
    from voicespan.diagnostics import say
    from voicespan.integrations.pipecat import DISTRIBUTION, installed_version

    try:
        from voicespan.integrations.pipecat.attach import attach
    except (ImportError, AttributeError) as error:
        version = installed_version() or ""
        say("pipecat.hooks", f"{DISTRIBUTION} {version} is not as it is known ({error}): no turns from it")
        hooked.moved(DISTRIBUTION, version)
    else:
        attach(worker)


async def setup_worker_runner(runner: WorkerRunner) -> None:
    """Do nothing; Pipecat warns of a file that lacks this function."""
