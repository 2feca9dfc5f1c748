"""A voice agent as Pipecat's own examples build it; nothing in it knows of telemetry."""

import asyncio

from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.services.llm_service import FunctionCallParams
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner
from simulated import Answer, Ear, Journal, Line, Loudness, Model, Recognizer, Voice


async def get_weather(params: FunctionCallParams) -> None:
    await asyncio.sleep(0.2)
    await params.result_callback({"degrees": 9})


async def main() -> None:
    journal = Journal()
    line, ear = Line(journal), Ear(journal)
    recognizer = Recognizer(journal)
    model = Model(journal, [Answer(tool="get_weather"), Answer("It is nine degrees in Oslo. ")])
    model.register_function("get_weather", get_weather)
    voice = Voice(journal)
    strategies = UserTurnStrategies(
        start=[VADUserTurnStartStrategy()], stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.3)]
    )
    context = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(user_turn_strategies=strategies, vad_analyzer=Loudness())
    )
    pipeline = Pipeline([line, recognizer, context.user(), model, voice, ear, context.assistant()])
    worker = PipelineWorker(pipeline, params=PipelineParams(enable_metrics=True, enable_usage_metrics=True))

    async def call() -> None:
        await worker.queue_frame(TTSSpeakFrame("Good morning."))
        await journal.wait("heard")
        await asyncio.sleep(2)
        line.speak(1.2)  # "How warm is it in Oslo?"
        await journal.wait("heard", 2)
        await asyncio.sleep(0.5)
        line.speak(1.0)  # "And in Rome?", before the answer is over
        await journal.wait("heard", 3)
        await asyncio.sleep(2)
        await worker.stop_when_done()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), call())


if __name__ == "__main__":
    asyncio.run(main())
