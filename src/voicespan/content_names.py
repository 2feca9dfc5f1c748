"""The names under which telemetry holds what was said: of the conventions, and of everybody's instrumentation."""

from __future__ import annotations

from typing import NamedTuple

_MAX_KNOWN = 10_000


class Names(NamedTuple):
    """The attributes of one source that hold what was said: whole names, and beginnings of names."""

    source: str
    whole: tuple[str, ...]
    beginnings: tuple[str, ...] = ()


TABLE = (
    Names(
        "OpenTelemetry's GenAI conventions: the attributes they call likely to hold sensitive information",
        (
            "gen_ai.evaluation.explanation",
            "gen_ai.input.messages",
            "gen_ai.memory.query.text",
            "gen_ai.memory.records",
            "gen_ai.output.messages",
            "gen_ai.retrieval.documents",
            "gen_ai.retrieval.query.text",
            "gen_ai.system_instructions",
            "gen_ai.tool.call.arguments",
            "gen_ai.tool.call.result",
            "gen_ai.tool.definitions",
        ),
        ("gen_ai.prompt.variable.",),
    ),
    Names(
        "OpenLLMetry, and the GenAI conventions before 2025: messages numbered one by one",
        (
            "gen_ai.completion",
            "gen_ai.prompt",
            "gen_ai.task.input",
            "gen_ai.task.output",
            "llm.content.completion.chunk",
            "mcp.request.argument",
            "mcp.response.value",
            "traceloop.entity.input",
            "traceloop.entity.output",
        ),
        (*(f"gen_ai.{said}.{digit}" for said in ("prompt", "completion") for digit in range(10)),
         "llm.request.functions", "traceloop.prompt.template"),
    ),
    Names(
        "OpenLIT",
        ("gen_ai.tool.args", "gen_ai.tool.input", "gen_ai.tool.output", "gen_ai.workflow.input",
         "gen_ai.workflow.output", "gen_ai.agent.instructions"),
        ("gen_ai.content.",),
    ),
    Names(
        "OpenInference",
        ("audio.transcript", "document.content", "input.value", "llm.function_call", "output.value",
         "retrieval.query", "tool.parameters"),
        ("embedding.embeddings", "llm.choices", "llm.input_messages", "llm.output_messages", "llm.prompt_template.",
         "llm.prompts", "llm.tools", "message.content", "message_content.", "reranker.input_documents",
         "reranker.output_documents", "reranker.query", "retrieval.documents"),
    ),
    Names(
        "LiveKit Agents: what it marks as personal, and the same names of its versions before the mark",
        (
            "lk.chat_ctx",
            "lk.function_tool.arguments",
            "lk.function_tool.output",
            "lk.input_text",
            "lk.instructions",
            "lk.response.function_calls",
            "lk.response.text",
            "lk.user_input",
            "lk.user_transcript",
        ),
        ("lk.pii.",),
    ),
    Names(
        "Pipecat",
        ("extra.system", "input", "instructions", "output", "session.instructions", "settings.instructions",
         "settings.system_instruction", "system_instruction", "text", "text_output", "tool.arguments", "tool.result",
         "tools", "tools.definitions", "transcript"),
        ("context_messages",),
    ),
    Names(
        "Logfire and Pydantic AI",
        ("all_messages_events", "events", "final_result", "prompt", "pydantic_ai.all_messages", "request_data",
         "response_data", "tool_arguments", "tool_response"),
    ),
    Names(
        "Langfuse",
        ("langfuse.observation.input", "langfuse.observation.output", "langfuse.trace.input", "langfuse.trace.output"),
    ),
    Names(
        "MLflow",
        ("mlflow.chat.tools", "mlflow.spanInputs", "mlflow.spanOutputs"),
    ),
    Names(
        "The Agent Development Kit of Google",
        ("gcp.vertex.agent.data",),
        ("gcp.vertex.agent.llm_re", "gcp.vertex.agent.tool_"),
    ),
    Names(
        "The AI SDK of Vercel",
        ("ai.embedding", "ai.embeddings", "ai.response.object", "ai.response.reasoning", "ai.response.text",
         "ai.response.toolCalls", "ai.result.object", "ai.result.text", "ai.result.toolCalls", "ai.toolCall.args",
         "ai.toolCall.result", "ai.value", "ai.values"),
        ("ai.prompt",),
    ),
    Names("Names that mean the same anywhere", ("completion", "content", "message.content", "messages", "response")),
)  # fmt: skip
"""Where attributes with what was said come from, and their names."""

WHOLE = frozenset(name for names in TABLE for name in names.whole)
BEGINNINGS = tuple(sorted({beginning for names in TABLE for beginning in names.beginnings}))

MESSAGES = frozenset(
    {
        "gen_ai.assistant.message",
        "gen_ai.choice",
        "gen_ai.content.completion",
        "gen_ai.content.prompt",
        "gen_ai.system.message",
        "gen_ai.tool.message",
        "gen_ai.user.message",
    }
)
"""Events and log records that are a message themselves: all that they carry was said."""


def is_content(name: str) -> bool:
    """Return whether an attribute of this name holds what was said."""
    return name in WHOLE or name.startswith(BEGINNINGS)


class Verdicts(dict[str, bool]):
    """Names that were seen, and whether they hold what was said; bounded, because senders make up names."""

    def __missing__(self, name: str) -> bool:
        """Look at a name for the first time."""
        if len(self) >= _MAX_KNOWN:
            self.clear()
        verdict = self[name] = is_content(name)
        return verdict


verdicts = Verdicts()
"""The verdict on each name, by the name."""
