"""Log lines of the SDK: one JSON object per line on standard error (contract §1.4, "logs").

`app.logger` is an ordinary `logging.Logger` with `JsonFormatter`. Importing `logging` takes 10 ms, so the SDK's
own plain messages are written without it until the agent (or an error's stack trace) has imported it anyway;
from then on they go through the logger like everyone else's, and the agent's levels and handlers apply.
"""

from __future__ import annotations

import json
import sys
import time
from _thread import allocate_lock

from bedrock_agentcore.runtime.context import BedrockAgentCoreContext

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any

LOGGER_NAME = "bedrock_agentcore.app"
LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}  # `logging`'s numbers
_configuring = allocate_lock()


def entry(seconds: float, level: str, message: str, logger: str) -> dict[str, Any]:
    """The fields that every line has, with the ids of the request being answered."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    fields: dict[str, Any] = {
        "timestamp": f"{stamp}.{int(seconds % 1 * 1000):03}Z",
        "level": level,
        "message": message,
        "logger": logger,
    }
    request_id = BedrockAgentCoreContext.get_request_id()
    if request_id:
        fields["requestId"] = request_id
    session_id = BedrockAgentCoreContext.get_session_id()
    if session_id:
        fields["sessionId"] = session_id
    return fields


def write(level: str, message: str) -> None:
    """One line, without `logging`; one call, so that lines of two threads cannot mix."""
    fields = entry(time.time(), level, message, LOGGER_NAME)
    sys.stderr.write(json.dumps(fields, ensure_ascii=False) + "\n")
    sys.stderr.flush()


def make_logger(debug: bool) -> logging.Logger:
    """The application's logger, configured once per process as the AWS SDK does it."""
    import logging

    class JsonFormatter(logging.Formatter):
        """A record as one JSON object."""

        def format(self, record: logging.LogRecord) -> str:
            fields = entry(record.created, record.levelname, record.getMessage(), record.name)
            if record.exc_info and record.exc_info[0]:
                import traceback

                fields["errorType"] = record.exc_info[0].__name__
                fields["errorMessage"] = str(record.exc_info[1])
                fields["stackTrace"] = traceback.format_exception(*record.exc_info)
                fields["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
            return json.dumps(fields, ensure_ascii=False)

    logger = logging.getLogger(LOGGER_NAME)
    with _configuring:  # two requests may log first at once
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(JsonFormatter())
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG if debug else logging.INFO)
    return logger
