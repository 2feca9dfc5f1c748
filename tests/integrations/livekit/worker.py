"""A service with job processes, as LiveKit's worker starts them: run as a script, with the start method as argument."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys

from livekit.agents import Agent, AgentSession, JobContext, JobExecutorType, JobProcess
from livekit.agents.ipc.proc_pool import ProcPool
from livekit.agents.job import JobAcceptArguments, RunningJobInfo
from livekit.protocol import agent, models
from world import Answer, Call, Detector, Model, Recognizer, Voice  # type: ignore[import-not-found]


def prepare(process: JobProcess) -> None:
    """Load nothing."""


async def entrypoint(context: JobContext) -> None:
    """Hold a call of one utterance."""
    call = Call()
    session: AgentSession[None] = AgentSession(
        stt=Recognizer(call.truth, call.caller), vad=Detector(), llm=Model(call.truth, Answer("It is nine.")),
        tts=Voice(call.truth), aec_warmup_duration=None,
        turn_handling={"endpointing": {"min_delay": 0.45}, "turn_detection": "vad"},
    )  # fmt: skip
    session.input.audio, session.output.audio = call.caller, call.line
    await session.start(Agent(instructions="be brief"))
    await call.caller.speak(0.5, "how cold is it")
    await call.truth.happened("played out")
    await session.aclose()
    await call.close()
    context.shutdown()


async def work(method: str, jobs: int) -> None:
    """Start a process for each job, and wait for their end."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["livekit.agents.ipc._preload", "livekit.agents.ipc._preload_freeze"])
    pool = ProcPool(
        initialize_process_fnc=prepare, job_entrypoint_fnc=entrypoint, session_end_fnc=None, simulation_end_fnc=None,
        num_idle_processes=jobs, initialize_timeout=60, close_timeout=20, session_end_timeout=20,
        inference_executor=None, job_executor_type=JobExecutorType.PROCESS, mp_ctx=context, memory_warn_mb=0,
        memory_limit_mb=0, http_proxy=None, loop=asyncio.get_running_loop(),
    )  # fmt: skip
    closed = asyncio.Queue[object]()
    pool.on("process_closed", closed.put_nowait)
    await pool.start()
    for number in range(jobs):
        job = agent.Job(id=f"job-{number}", room=models.Room(name=f"room-{number}", sid=f"RM_{number}"))
        accepted = JobAcceptArguments(identity="agent", name="", metadata="")
        await pool.launch_job(RunningJobInfo(accepted, job, url="", token="", worker_id="w", fake_job=True))
    for _ in range(jobs):
        await closed.get()
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], 2))
